#include "moe/checkpoint/model_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <system_error>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "moe/base/status_macros.h"

namespace conclave {
namespace {

namespace fs = std::filesystem;

bool IsPlainName(absl::string_view name) {
  return !name.empty() && name.size() <= 255 && name != "." && name != ".." && !absl::StrContains(name, '/') &&
         !absl::StrContains(name, absl::string_view("\0", 1));
}

// Whether `path` lies inside `folder`; both absolute and without links.
bool IsInside(const fs::path& path, const fs::path& folder) {
  const fs::path relative = path.lexically_relative(folder);
  return !relative.empty() && *relative.begin() != ".." && *relative.begin() != ".";
}

// The models--<org>--<name> folder of a Hugging Face cache whose snapshots/<revision> holds `directory`, or empty.
fs::path HubModelFolder(const fs::path& directory) {
  for (fs::path at = directory; at.has_relative_path(); at = at.parent_path()) {
    if (at.filename() == "snapshots" && absl::StartsWith(at.parent_path().filename().string(), "models--")) {
      return at.parent_path();
    }
  }
  return {};
}

std::string Printable(absl::string_view name) { return absl::CHexEscape(name.substr(0, 255)); }

}  // namespace

bool ModelFileExists(const std::string& directory, absl::string_view name) {
  struct stat status;
  return IsPlainName(name) && lstat(absl::StrCat(directory, "/", name).c_str(), &status) == 0;
}

absl::StatusOr<std::string> ResolveModelFile(const std::string& directory, absl::string_view name) {
  if (!IsPlainName(name)) {
    return absl::InvalidArgumentError(
        absl::StrCat(directory, ": \"", Printable(name), "\" is not a plain file name in the model directory"));
  }
  std::error_code error;
  const fs::path folder = fs::canonical(directory, error);
  if (error) return absl::NotFoundError(absl::StrCat(directory, ": ", error.message()));
  const fs::path stated = folder / std::string(name);
  const fs::path real = fs::canonical(stated, error);
  if (error) {
    const std::string text = absl::StrCat(directory, "/", Printable(name), ": ", error.message());
    return error == std::errc::too_many_symbolic_link_levels ? absl::InvalidArgumentError(text)
                                                             : absl::NotFoundError(text);
  }
  const fs::path hub_folder = HubModelFolder(folder);
  if (IsInside(real, folder) || (!hub_folder.empty() && IsInside(real, hub_folder))) return real.string();
  return absl::InvalidArgumentError(
      absl::StrCat(directory, "/", Printable(name), ": is a link to ", Printable(real.string()),
                   ", outside the model directory; put the file itself into the directory"));
}

absl::StatusOr<std::string> ReadTextFile(const std::string& path, int64_t bytes_max) {
  const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor < 0) {
    const std::string text = absl::StrCat(path, ": ", std::strerror(errno));
    return errno == ENOENT || errno == ENOTDIR ? absl::NotFoundError(text) : absl::InvalidArgumentError(text);
  }
  const auto closer = absl::MakeCleanup([descriptor] { close(descriptor); });
  struct stat status;
  if (fstat(descriptor, &status) != 0 || !S_ISREG(status.st_mode)) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": not a regular file"));
  }
  if (status.st_size > bytes_max) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": has ", status.st_size, " bytes; at most ", bytes_max, " are read"));
  }
  std::string text(static_cast<size_t>(status.st_size), '\0');
  size_t filled = 0;
  while (filled < text.size()) {
    const ssize_t got = read(descriptor, text.data() + filled, text.size() - filled);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return absl::DataLossError(absl::StrCat(path, ": cannot read at offset ", filled));
    filled += static_cast<size_t>(got);
  }
  return text;
}

absl::StatusOr<std::string> ReadModelFile(const std::string& directory, absl::string_view name, int64_t bytes_max) {
  ASSIGN_OR_RETURN(const std::string path, ResolveModelFile(directory, name));
  return ReadTextFile(path, bytes_max);
}

}  // namespace conclave
