// A serving engine inside this process, with its experts beside it or behind a transport: what `conclave generate
// --model` and `conclave logits` run on. It is the services' own code; only the processes are missing.
#ifndef CONCLAVE_CLI_LOCAL_CLUSTER_H_
#define CONCLAVE_CLI_LOCAL_CLUSTER_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "cli/command.h"
#include "moe/base/thread_options.h"
#include "moe/checkpoint/checkpoint.h"
#include "moe/checkpoint/model_dir.h"
#include "moe/model/device/compute_target.h"
#include "moe/placement/placement.h"
#include "router_service/engine.h"

namespace conclave {

// The flags that say which model runs, where, and in what numbers; the same for every verb that runs one.
struct LocalClusterFlags {
  std::string model;  // a directory or org/name[@revision]
  int shards = 0;     // 0: experts run in the engine itself, without a transport
  std::string transport = "inproc";
  std::string row_format = "compute";  // of rows on their way to experts
  std::string kv_format = "compute";   // of cached latents
  int block_size = 0;                  // tokens of a KV block; 0: what suits the device
  TargetOptions target;
  ThreadOptions threads;
  int prefill_chunk = 0;  // prompt rows of one sequence in one step; 0: the engine's default
  // No flag: host:port of shards in other processes, which then compute instead of `shards` of this one.
  std::vector<std::string> shard_addresses;
  // No flag: load what the model's tokens say, for requests with a grammar.
  bool vocabulary = false;

  void Declare(CommandFlags& flags);
  // UsageError: no model, or flags that contradict each other.
  absl::Status Validate() const;
};

// The flags that say what is computed on, for every verb that starts a part of a model: --device, --gpu-memory,
// --compute, and --isa, which is hidden. `options` must outlive parsing.
void DeclareTarget(CommandFlags& flags, TargetOptions& options);
// TargetOptions::Validate as a usage error.
absl::Status ValidateTarget(const TargetOptions& options);

// The flags that say on which cores, for the same verbs: --threads and --cpus. `options` must outlive parsing.
void DeclareThreads(CommandFlags& flags, ThreadOptions& options);
// PlanThreads as a usage error.
absl::Status ValidateThreads(const ThreadOptions& options);

// Owns the engine and all that it stands on.
class LocalCluster {
 public:
  // Opens the model, starts `flags.shards` shards, or waits for those at `flags.shard_addresses`, and starts the
  // engine. `options` are the engine's, as far as flags do not set them; its KV cache is made no larger than
  // sequences_running_max sequences can fill. Errors are those of Checkpoint::Open, Engine::Create and the shards.
  static absl::StatusOr<std::unique_ptr<LocalCluster>> Create(const LocalClusterFlags& flags, const HubEnvironment& hub,
                                                              EngineOptions options);
  virtual ~LocalCluster() = default;
  virtual const Checkpoint& checkpoint() const = 0;
  virtual Engine& engine() = 0;
  // Who holds which experts.
  virtual std::vector<ShardHoldings> Holdings() const = 0;
};

}  // namespace conclave

#endif  // CONCLAVE_CLI_LOCAL_CLUSTER_H_
