// Requests of a benchmark over the Generate RPC, by gRPC's callback API.
#ifndef CONCLAVE_CLI_BENCH_GRPC_LOAD_CLIENT_H_
#define CONCLAVE_CLI_BENCH_GRPC_LOAD_CLIENT_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "cli/bench/load_client.h"
#include "cli/cluster_access.h"

namespace conclave {

// To the gateway on `address`, host:port. `access` must outlive it. INVALID_ARGUMENT: a TLS file is wrong.
absl::StatusOr<std::unique_ptr<LoadClient>> NewGrpcLoadClient(const std::string& address, const ClusterAccess& access);

}  // namespace conclave

#endif  // CONCLAVE_CLI_BENCH_GRPC_LOAD_CLIENT_H_
