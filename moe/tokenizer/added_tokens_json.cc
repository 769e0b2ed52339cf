#include "moe/tokenizer/added_tokens_json.h"

#include <nlohmann/json.hpp>
#include <optional>

#include "absl/strings/str_cat.h"
#include "moe/base/limits.h"
#include "moe/base/status_macros.h"
#include "moe/tokenizer/json_file.h"

namespace conclave {
namespace {

// The search for added tokens looks this far ahead at every byte of a text.
constexpr size_t kContentBytesMax = 1024;

}  // namespace

absl::StatusOr<AddedToken> ParseAddedToken(const nlohmann::json& entry, const std::string& where) {
  if (!entry.is_object()) return FileError(where, "must be an object");
  AddedToken token;
  ASSIGN_OR_RETURN(token.content, RequiredString(entry, "content", where));
  if (token.content.empty()) return FileError(where, "content is empty");
  if (token.content.size() > kContentBytesMax) {
    return FileError(where, absl::StrCat("content is longer than ", kContentBytesMax, " bytes"));
  }
  const auto flag = [&](const char* name, bool* out) -> absl::Status {
    ASSIGN_OR_RETURN(const std::optional<bool> value, OptionalBool(entry, name, where));
    *out = value.value_or(false);
    return absl::OkStatus();
  };
  bool single_word = false;
  RETURN_IF_ERROR(flag("single_word", &single_word));
  RETURN_IF_ERROR(flag("lstrip", &token.lstrip));
  RETURN_IF_ERROR(flag("rstrip", &token.rstrip));
  RETURN_IF_ERROR(flag("normalized", &token.normalized));
  RETURN_IF_ERROR(flag("special", &token.special));
  if (single_word) return FileError(where, "single_word is true, which is not supported");
  return token;
}

absl::StatusOr<int32_t> ParseTokenId(const nlohmann::json& id, const std::string& where) {
  if (!id.is_number_integer()) return FileError(where, "the token id must be an integer");
  // A number above int64's range is kept as unsigned; get<int64_t> would wrap it to a negative one, refused as well.
  const int64_t value = id.get<int64_t>();
  if (value < 0 || value >= limits::kVocabMax) {
    return FileError(where, absl::StrCat("token id ", id.dump(), " is outside [0, ", limits::kVocabMax, ")"));
  }
  return static_cast<int32_t>(value);
}

}  // namespace conclave
