// The files by which the processes of a local cluster find each other: cluster.json, written by `conclave up`, and the
// address file that every service writes when it listens.
#ifndef CONCLAVE_CLI_CLUSTER_FILE_H_
#define CONCLAVE_CLI_CLUSTER_FILE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace conclave {

// One process of a cluster; addresses are host:port, empty where the process has no such port.
struct ClusterProcess {
  std::string role;  // "gateway", "router", "expert" or "placement"
  std::string name;  // "expert-2"
  int64_t pid = 0;
  std::string grpc;
  std::string http;
  std::string metrics;
};

// `run_directory`/cluster.json.
std::string ClusterFilePath(const std::string& run_directory);
// Writes the list, one object a process, so that readers see all of it or the file before. INTERNAL names the file.
absl::Status WriteClusterFile(const std::string& path, const std::vector<ClusterProcess>& processes);
// NOT_FOUND: no such file. DATA_LOSS: it is not a list of processes.
absl::StatusOr<std::vector<ClusterProcess>> ReadClusterFile(const std::string& path);
// The grpc and metrics addresses of an address file (moe/daemon/daemon.h). The same errors.
absl::StatusOr<ClusterProcess> ReadAddressFile(const std::string& path);

// The gRPC address of the first process of `role`. NOT_FOUND names the role.
absl::StatusOr<std::string> AddressOfRole(const std::vector<ClusterProcess>& processes, const std::string& role);

}  // namespace conclave

#endif  // CONCLAVE_CLI_CLUSTER_FILE_H_
