#include "moe/tokenizer/json_file.h"

#include <sys/stat.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "moe/base/json_complaint.h"
#include "moe/base/limits.h"
#include "moe/base/status_macros.h"
#include "moe/tokenizer/utf8.h"

namespace conclave {
namespace {

// The parser itself does not recurse, but whoever walks the result would.
absl::Status CheckDepth(absl::string_view text, absl::string_view file) {
  int depth = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;
      if (c == '"') in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '{' || c == '[') {
      if (++depth > limits::kJsonDepthMax) {
        return FileError(file, absl::StrCat("nested deeper than ", limits::kJsonDepthMax, " levels at byte ", i));
      }
    } else if (c == '}' || c == ']') {
      --depth;
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status FileError(absl::string_view file, absl::string_view message) {
  constexpr size_t kMessageBytesMax = 600;  // a message may quote the file, which may be hostile
  std::string shown;
  AppendLossyUtf8(message.substr(0, kMessageBytesMax), /*final=*/true, &shown);
  return absl::InvalidArgumentError(
      absl::StrCat(std::string(file), ": ", shown, message.size() > kMessageBytesMax ? "…" : ""));
}

absl::StatusOr<std::string> ReadFileUpTo(const std::string& path, int64_t bytes_max) {
  struct stat info;
  if (::stat(path.c_str(), &info) != 0) {
    const std::string message = absl::StrCat(path, ": ", std::strerror(errno));
    return errno == ENOENT || errno == ENOTDIR ? absl::NotFoundError(message) : absl::InvalidArgumentError(message);
  }
  if (!S_ISREG(info.st_mode)) return FileError(path, "not a regular file");
  if (info.st_size > bytes_max) {
    return FileError(path, absl::StrCat(int64_t{info.st_size}, " bytes, more than the ", bytes_max, " supported"));
  }
  std::string text(static_cast<size_t>(info.st_size), '\0');
  std::ifstream stream(path, std::ios::binary);
  stream.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (!stream && !text.empty()) return FileError(path, "cannot be read");
  return text;
}

absl::StatusOr<nlohmann::json> ParseJsonObject(absl::string_view text, absl::string_view file) {
  RETURN_IF_ERROR(CheckDepth(text, file));
  nlohmann::json value;
  try {  // Only with exceptions does the library say what is wrong and where.
    value = nlohmann::json::parse(text.begin(), text.end());
  } catch (const nlohmann::json::exception& error) {
    return FileError(file, JsonComplaint(error.what()));
  }
  if (!value.is_object()) return FileError(file, "its top level must be a JSON object");
  return value;
}

absl::StatusOr<std::optional<bool>> OptionalBool(const nlohmann::json& object, const char* name,
                                                 absl::string_view file) {
  const auto member = object.find(name);
  if (member == object.end() || member->is_null()) return std::optional<bool>();
  if (!member->is_boolean()) return FileError(file, absl::StrCat(name, " must be true or false"));
  return std::optional<bool>(member->get<bool>());
}

absl::StatusOr<std::optional<std::string>> OptionalString(const nlohmann::json& object, const char* name,
                                                          absl::string_view file) {
  const auto member = object.find(name);
  if (member == object.end() || member->is_null()) return std::optional<std::string>();
  if (!member->is_string()) return FileError(file, absl::StrCat(name, " must be a string"));
  return std::optional<std::string>(member->get<std::string>());
}

absl::StatusOr<std::string> RequiredString(const nlohmann::json& object, const char* name, absl::string_view file) {
  ASSIGN_OR_RETURN(std::optional<std::string> value, OptionalString(object, name, file));
  if (!value.has_value()) return FileError(file, absl::StrCat(name, " is missing"));
  return *std::move(value);
}

}  // namespace conclave
