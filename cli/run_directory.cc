#include "cli/run_directory.h"

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace conclave {

absl::StatusOr<std::string> MakeRunDirectory(const std::string& parent) {
  std::string pattern = absl::StrCat(parent, "/conclave-XXXXXX");
  if (mkdtemp(pattern.data()) != nullptr) return pattern;
  return absl::InternalError(absl::StrCat("cannot create a directory in ", parent, ": ", strerror(errno)));
}

}  // namespace conclave
