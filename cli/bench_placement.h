// Where the experts of a benchmark run: in this process, or in others behind a transport.
#ifndef CONCLAVE_CLI_BENCH_PLACEMENT_H_
#define CONCLAVE_CLI_BENCH_PLACEMENT_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "cli/command.h"
#include "cli/local_cluster.h"
#include "cli/model_timer.h"
#include "router_service/engine.h"
#include "router_service/sampler.h"

namespace conclave {

// What one item of --against says.
struct BenchPlacement {
  std::string transport;  // "inproc": shards in this process; "ucx" or "grpc": in processes of their own
  int shards = 1;
  std::string Name() const;  // "ucx:2"
};

// "ucx:2,grpc:2". UsageError quotes what is none.
absl::StatusOr<std::vector<BenchPlacement>> ParseBenchPlacements(absl::string_view text);

// The model of `LocalClusterFlags` with its experts placed so, ready to be timed. The threads of the flags are shared
// out among this process and the shards as `conclave up` does it. Used by the main thread. REQUIRES: BlockSignals was
// called before other threads started
class PlacedModel {
 public:
  // Blocks until all shards serve. Errors are those of LocalCluster and of ClusterRunner.
  static absl::StatusOr<std::unique_ptr<PlacedModel>> Create(const BenchPlacement& placement,
                                                             const LocalClusterFlags& flags,
                                                             const CommandContext& context,
                                                             const EngineOptions& options,
                                                             const SamplingParams& sampling);
  virtual ~PlacedModel() = default;
  virtual ModelTimer& timer() = 0;
  // Ends the processes and removes their logs. INTERNAL names a process that did not end cleanly; its log then stays.
  virtual absl::Status Stop() = 0;
};

}  // namespace conclave

#endif  // CONCLAVE_CLI_BENCH_PLACEMENT_H_
