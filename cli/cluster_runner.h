// Runs a cluster as child processes: expert shards, then the attention services, then the gateway and, where it is
// asked for, the controller of placements.
#ifndef CONCLAVE_CLI_CLUSTER_RUNNER_H_
#define CONCLAVE_CLI_CLUSTER_RUNNER_H_

#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "cli/cluster_file.h"
#include "cli/core_split.h"
#include "cli/process_group.h"
#include "moe/model/device/compute_target.h"

namespace conclave {

// What to start. All of it has been checked: the model opens, the ports are free, the directory is there.
struct ClusterPlan {
  std::string model;               // as given to --model: a directory, or org/name[@revision]
  int shards = 4;                  // expert processes; 0: experts run in the attention service
  int replicas = 1;                // on how many of them each expert lives
  int routers = 1;                 // attention services
  std::string transport = "auto";  // "auto", "grpc", "ucx", "nccl" or "inproc"
  TargetOptions target;            // of the attention service and the shards; its compute is not "auto"
  CoreSplit cores;                       // threads of each process that computes
  std::vector<std::vector<int>> cpus;  // of each of them, attention services first; empty: not pinned
  int grpc_port = 0;               // the gateway's; 0: a free one
  int http_port = 0;               // the gateway's; 0: a free one
  int metrics_port = 0;            // the gateway's; 0: a free one
  std::string gateway_flags;       // more of its flags: name=value, separated by spaces
  std::string router_flags;        // the same for every attention service
  std::string expert_flags;        // and for every expert process
  bool rebalance = false;          // a process moves experts to where the load is
  std::string placement_flags;     // more flags of that one
  std::string run_directory;       // logs, address files, cluster.json
  std::string gateway_binary, router_binary, expert_binary, placement_binary;
};

// Used by one thread. REQUIRES: BlockSignals was called before other threads started.
class ClusterRunner {
 public:
  // `progress` gets a line of text whenever there is news about loading.
  ClusterRunner(ClusterPlan plan, std::function<void(absl::string_view)> progress);

  // Starts everything and returns when every process serves. UNAVAILABLE: a process ended before that; the message is
  // its own error. CANCELLED: a signal asked to end.
  absl::Status Start();
  // The same with the shards alone, for a caller that is its own attention service.
  absl::Status StartShards();
  // Writes cluster.json.
  absl::Status Publish() const;
  // Returns when a signal asks to end (OK), or when the gateway or the last attention service has ended (UNAVAILABLE).
  // A shard that ends, or one of several attention services, is told to `warning`, and the others go on.
  absl::Status WaitForEnd(const std::function<void(absl::string_view)>& warning);
  // Stops gateway, attention service and shards, in this order, and removes cluster.json. INTERNAL names who did not
  // end cleanly.
  absl::Status Stop();

  const std::vector<ClusterProcess>& processes() const { return processes_; }

 private:
  ProcessSpec SpecFor(const std::string& role, const std::string& name, const std::string& binary) const;
  void AddTarget(ProcessSpec& spec) const;
  // `process` counts attention services first, then shards.
  void AddThreads(ProcessSpec& spec, int threads, int process) const;
  absl::Status Launch(ProcessSpec spec);
  absl::Status LaunchShards();
  absl::Status LaunchRouters();
  absl::Status LaunchGateway();
  absl::Status LaunchPlacement();
  // Waits until all launched so far have written where they listen.
  absl::Status WaitForAddresses();
  absl::Status WaitUntilServing();
  // UNAVAILABLE or CANCELLED where starting must not go on; waits up to `wait` for such news.
  absl::Status CheckStarting(absl::Duration wait);
  void TellProgress(const std::vector<bool>& serving);
  std::string AddressFileOf(const std::string& name) const;
  std::string LogOf(const std::string& name) const;

  const ClusterPlan plan_;
  const std::function<void(absl::string_view)> progress_;
  ProcessGroup group_;
  std::vector<ClusterProcess> processes_;  // in the order of their start
  std::string last_progress_;
};

}  // namespace conclave

#endif  // CONCLAVE_CLI_CLUSTER_RUNNER_H_
