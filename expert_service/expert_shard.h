// An expert shard without its process: runs rows through the experts it holds, whoever asks.
#ifndef CONCLAVE_EXPERT_SERVICE_EXPERT_SHARD_H_
#define CONCLAVE_EXPERT_SERVICE_EXPERT_SHARD_H_

#include <functional>
#include <memory>
#include <mutex>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "expert_service/background_loader.h"
#include "expert_service/expert_store.h"
#include "expert_service/shard_metrics.h"
#include "moe/base/thread_options.h"
#include "moe/base/thread_pool.h"
#include "moe/checkpoint/checkpoint.h"
#include "moe/kernels/kernels.h"
#include "moe/metrics/metrics.h"
#include "moe/model/device/device_experts.h"
#include "moe/model/device/device_memory.h"
#include "moe/model/expert_ffn.h"
#include "moe/transport/expert_handler.h"
#include "moe/transport/validate_call.h"

namespace conclave {

// What a shard is made of; the checkpoint comes separately, since shards of one process share it.
struct ExpertShardOptions {
  std::string name = "expert-0";  // stands in messages and in the description
  int shard_index = 0;
  int shard_count = 1;
  int replicas = 1;                  // on how many shards each expert lives
  const Kernels* kernels = nullptr;  // required; what it computes in decides the row dtype
  DeviceMemory* device = nullptr;    // where it computes; null: on this CPU. Must outlive the shard
  std::function<void(const absl::Status&)> on_device_lost;  // called once, by the call that found out; may be empty
  ThreadPlan threads;                // that one call may use, the caller's included
  int64_t expert_bytes_max = 0;      // stored bytes of all experts held; 0: no limit
  bool load = false;                 // bring all weights into memory before Create returns, later ones by and by
  ExpertStore::Progress progress;    // of that; may be empty
  Metrics* metrics = nullptr;        // null: none; otherwise must outlive the shard
  bool per_expert_metrics = false;   // one series for every expert held
};

// Thread-safe: calls of several routers queue for the one set of scratch buffers and threads.
class ExpertShard final : public ExpertHandler {
 public:
  // Errors are those of ExpertStore, and INVALID_ARGUMENT for a number of threads out of range. RESOURCE_EXHAUSTED: its
  // own share is beyond expert_bytes_max.
  // `checkpoint` and the kernels must outlive the shard.
  static absl::StatusOr<std::unique_ptr<ExpertShard>> Create(const ExpertShardOptions& options,
                                                             const Checkpoint& checkpoint);

  ~ExpertShard() override;

  ShardDescription Describe() const override;
  bool TakesDeviceRows() const override { return device_ != nullptr; }
  // Also FAILED_PRECONDITION for another placement epoch, DEADLINE_EXCEEDED where the call's turn came too late (it is
  // then not run), DATA_LOSS where a file of the checkpoint was cut short under us, UNAVAILABLE where the device is
  // lost.
  absl::Status Run(const ExpertCall& call, MatView out) override { return RunInPieces(call, out, {}); }
  // Where a device computes, its results come in pieces.
  absl::Status RunInPieces(const ExpertCall& call, MatView out, const std::function<void(int64_t)>& landed) override;
  // Weights come into memory as calls use them; where `load` is set, a thread of the shard reads them all meanwhile.
  absl::StatusOr<ShardDescription> LoadExperts(absl::Span<const LayerHolding> experts) override;
  absl::Status PrepareExperts(absl::Span<const LayerHolding> experts) override;
  absl::StatusOr<ShardDescription> KeepExperts(absl::Span<const LayerHolding> experts, uint64_t revision) override;
  // On a device a layer is copied anew without what is dropped, as it is for LoadExperts; calls wait for that.
  absl::StatusOr<ShardDescription> UnloadExperts(absl::Span<const LayerHolding> experts, uint64_t revision) override;
  std::vector<LayerTokens> Tokens() const override;
  // What is held; not to be used while LoadExperts may run.
  const ExpertStore& store() const { return *store_; }

 private:
  ExpertShard(const ExpertShardOptions& options, const Checkpoint& checkpoint, std::unique_ptr<ExpertStore> store,
              std::unique_ptr<DeviceExperts> device);
  absl::Status Check(const ExpertCall& call, const MatView& out) const;
  absl::Status CheckChange(absl::Span<const LayerHolding> experts, uint64_t revision) const;
  // The store holds something else than is described.
  void DescribeHoldings();
  void Revise();
  absl::Status Compute(const ExpertCall& call, MatView out, absl::Time arrival,
                       const std::function<void(int64_t)>& landed);
  absl::Status ComputeOnDevice(const ExpertCall& call, MatView out, const std::function<void(int64_t)>& landed);

  const Checkpoint& checkpoint_;
  const std::unique_ptr<ExpertStore> store_;  // what it holds is guarded by mutex_
  const int pairs_max_;
  CallLimits limits_;
  const int64_t expert_bytes_max_;
  const bool load_;
  // Changes with both mutexes held, so that whoever holds either may read it: a shard answers who asks what it is while
  // layers are copied to its device.
  ShardDescription description_;
  mutable std::mutex description_mutex_;  // behind mutex_
  ShardMetrics metrics_;                  // its series are guarded by mutex_
  BackgroundLoader loader_;
  std::mutex mutex_;  // one call or one change after the other
  ThreadPool threads_;      // guarded by mutex_
  GroupedExperts grouped_;  // guarded by mutex_; idle where there is a device
  absl::Time last_end_ = absl::InfinitePast();  // of a call on the CPU; guarded by mutex_
  const std::unique_ptr<DeviceExperts> device_;                      // guarded by mutex_
  std::function<void(const absl::Status&)> on_device_lost_;          // guarded by mutex_; empty once called
};

}  // namespace conclave

#endif  // CONCLAVE_EXPERT_SERVICE_EXPERT_SHARD_H_
