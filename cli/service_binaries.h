// Where the executables of the services lie, seen from the `conclave` executable.
#ifndef CONCLAVE_CLI_SERVICE_BINARIES_H_
#define CONCLAVE_CLI_SERVICE_BINARIES_H_

#include <string>

#include "absl/status/statusor.h"

namespace conclave {

// The executable `name` ("gateway", "router_service", "expert_service"): beside the command, where an installation
// puts it, or in bazel-bin/<name>/<name>. NOT_FOUND names both places.
absl::StatusOr<std::string> FindServiceBinary(const std::string& binary_directory, const std::string& name);

}  // namespace conclave

#endif  // CONCLAVE_CLI_SERVICE_BINARIES_H_
