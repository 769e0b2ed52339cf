#include "cli/service_binaries.h"

#include <sys/stat.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"

namespace conclave {

absl::StatusOr<std::string> FindServiceBinary(const std::string& binary_directory, const std::string& name) {
  const std::string installed = absl::StrCat(binary_directory, "/", name);
  const std::string built = absl::StrCat(binary_directory, "/../", name, "/", name);
  for (const std::string& path : {built, installed}) {
    struct stat info = {};
    if (stat(path.c_str(), &info) == 0 && S_ISREG(info.st_mode) && access(path.c_str(), X_OK) == 0) return path;
  }
  return absl::NotFoundError(absl::StrCat("the executable ", name, " is neither at ", installed, " nor at ", built,
                                          "; build it with: bazel build //cli:conclave"));
}

}  // namespace conclave
