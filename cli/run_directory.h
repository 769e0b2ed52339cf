// Directories for what processes of a cluster write.
#ifndef CONCLAVE_CLI_RUN_DIRECTORY_H_
#define CONCLAVE_CLI_RUN_DIRECTORY_H_

#include <string>

#include "absl/status/statusor.h"

namespace conclave {

// A new directory in `parent`, for this user alone. INTERNAL: it cannot be made.
absl::StatusOr<std::string> MakeRunDirectory(const std::string& parent);

}  // namespace conclave

#endif  // CONCLAVE_CLI_RUN_DIRECTORY_H_
