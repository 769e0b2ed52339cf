#include "expert_service/expert_shard.h"

#include <algorithm>
#include <random>
#include <utility>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "moe/base/check.h"
#include "moe/base/limits.h"
#include "moe/base/status_macros.h"
#include "moe/model/numeric_profile.h"

namespace conclave {
namespace {

absl::StatusOr<std::unique_ptr<DeviceExperts>> PutOnDevice(const ExpertShardOptions& options,
                                                           const Checkpoint& checkpoint, const ExpertStore& store) {
  DeviceExpertsOptions limits;
  limits.compute = options.kernels->compute;
  limits.rows_max = limits::kCallRowsMax;
  limits.pairs_max = int64_t{limits::kCallRowsMax} * checkpoint.spec().gate.top_k;
  const auto progress = [&](int64_t copied) {
    if (options.progress) options.progress(copied, store.experts(), store.stored_bytes(copied));
  };
  return DeviceExperts::Create(checkpoint, store.holdings(), limits, *options.device, progress);
}

// Another one than that of the process that was here before, so that nothing meant for that one counts here.
uint64_t AnyRevision() {
  std::random_device random;
  return uint64_t{random()} << 31 | random() | 1;
}

// The CPU's scratch is not needed where a device computes.
int CpuPairsMax(const ExpertShardOptions& options, int pairs_max) { return options.device == nullptr ? pairs_max : 1; }

}  // namespace

absl::StatusOr<std::unique_ptr<ExpertShard>> ExpertShard::Create(const ExpertShardOptions& options,
                                                                 const Checkpoint& checkpoint) {
  CONCLAVE_CHECK(options.kernels != nullptr);
  const int threads = options.threads.threads;
  if (threads < 1 || threads > limits::kThreadsMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("threads: ", threads, " is not in [1, ", limits::kThreadsMax, "]"));
  }
  ASSIGN_OR_RETURN(auto store, ExpertStore::Create(checkpoint, options.shard_index, options.shard_count,
                                                   options.replicas));
  if (options.expert_bytes_max > 0 && store->stored_bytes() > options.expert_bytes_max) {
    return absl::ResourceExhaustedError(absl::StrCat("this shard's own experts take ", store->stored_bytes(),
                                                     " bytes, --expert-memory allows ", options.expert_bytes_max,
                                                     "; start more shards"));
  }
  std::unique_ptr<DeviceExperts> device;
  if (options.device != nullptr) {
    ASSIGN_OR_RETURN(device, PutOnDevice(options, checkpoint, *store));
  } else if (options.load) {
    RETURN_IF_ERROR(store->LoadAll(options.progress));
  }
  return absl::WrapUnique(new ExpertShard(options, checkpoint, std::move(store), std::move(device)));
}

ExpertShard::ExpertShard(const ExpertShardOptions& options, const Checkpoint& checkpoint,
                         std::unique_ptr<ExpertStore> store, std::unique_ptr<DeviceExperts> device)
    : checkpoint_(checkpoint),
      store_(std::move(store)),
      pairs_max_(limits::kCallRowsMax * checkpoint.spec().gate.top_k),
      expert_bytes_max_(options.expert_bytes_max),
      load_(options.load),
      metrics_(options.metrics, *store_, checkpoint.spec(), options.per_expert_metrics),
      loader_(*store_, options.metrics),
      threads_(options.threads.threads, options.threads.cpus),
      grouped_(*options.kernels, threads_, checkpoint.spec().hidden, checkpoint.spec().moe_intermediate,
               CpuPairsMax(options, pairs_max_)),
      device_(std::move(device)),
      on_device_lost_(options.on_device_lost) {
  limits_.hidden = checkpoint.spec().hidden;
  limits_.device_rows = device_ != nullptr;
  description_.name = options.name;
  description_.model_fingerprint = checkpoint.fingerprint();
  description_.numeric_profile = NumericProfile(*options.kernels);
  description_.placement_epoch = kStaticPlacementEpoch;
  description_.hidden = limits_.hidden;
  description_.row_dtype = RowDType(options.kernels->compute);
  description_.holdings = store_->holdings();
  description_.expert_bytes = static_cast<uint64_t>(store_->stored_bytes());
  description_.expert_bytes_max = static_cast<uint64_t>(expert_bytes_max_);
  description_.revision = AnyRevision();
  description_.experts_per_layer = checkpoint.spec().gate.experts;
  description_.replicas = options.replicas;
}

ExpertShard::~ExpertShard() = default;

ShardDescription ExpertShard::Describe() const {
  std::lock_guard<std::mutex> lock(description_mutex_);
  return description_;
}

absl::StatusOr<ShardDescription> ExpertShard::LoadExperts(absl::Span<const LayerHolding> experts) {
  std::lock_guard<std::mutex> turn(mutex_);
  absl::StatusOr<std::vector<LayerHolding>> fresh = store_->Hold(experts, expert_bytes_max_);
  if (!fresh.ok()) {
    return absl::Status(fresh.status().code(), absl::StrCat(description_.name, ": ", fresh.status().message()));
  }
  if (fresh->empty()) return description_;
  if (device_ != nullptr) {
    if (const absl::Status status = device_->Hold(*fresh); !status.ok()) {
      // The layers before the one that failed are there.
      for (LayerHolding& holding : *fresh) {
        std::vector<ExpertId>& lacking = holding.experts;
        lacking.erase(std::remove_if(lacking.begin(), lacking.end(),
                                     [&](ExpertId expert) { return device_->Holds(holding.layer, Value(expert)); }),
                      lacking.end());
      }
      store_->Drop(*fresh);
      if (static_cast<uint64_t>(store_->stored_bytes()) != description_.expert_bytes) DescribeHoldings();
      return absl::Status(status.code(), absl::StrCat(description_.name, ": ", status.message()));
    }
  }
  DescribeHoldings();
  if (load_ && device_ == nullptr) loader_.Add(*std::move(fresh));
  return description_;
}

void ExpertShard::DescribeHoldings() {
  std::lock_guard<std::mutex> lock(description_mutex_);
  ++description_.placement_epoch;
  description_.holdings = store_->holdings();
  description_.expert_bytes = static_cast<uint64_t>(store_->stored_bytes());
  metrics_.SetHeld(*store_);
}

void ExpertShard::Revise() {
  std::lock_guard<std::mutex> lock(description_mutex_);
  ++description_.revision;
}

absl::Status ExpertShard::PrepareExperts(absl::Span<const LayerHolding> experts) { return store_->Prepare(experts); }

absl::Status ExpertShard::CheckChange(absl::Span<const LayerHolding> experts, uint64_t revision) const {
  absl::Status status = store_->CheckHeld(experts);
  if (status.ok() && revision != description_.revision) {
    status = absl::AbortedError(absl::StrCat("revision: ", revision, ", here it is ", description_.revision,
                                             ": somebody else changes what is held; describe the shard anew"));
  }
  if (status.ok()) return status;
  return absl::Status(status.code(), absl::StrCat(description_.name, ": ", status.message()));
}

absl::StatusOr<ShardDescription> ExpertShard::KeepExperts(absl::Span<const LayerHolding> experts, uint64_t revision) {
  std::lock_guard<std::mutex> turn(mutex_);
  RETURN_IF_ERROR(CheckChange(experts, revision));
  Revise();
  return description_;
}

absl::StatusOr<ShardDescription> ExpertShard::UnloadExperts(absl::Span<const LayerHolding> experts,
                                                            uint64_t revision) {
  std::lock_guard<std::mutex> turn(mutex_);
  RETURN_IF_ERROR(CheckChange(experts, revision));
  if (loader_.LoadsAny(experts)) {
    return absl::AbortedError(absl::StrCat(description_.name, ": experts: some are still being loaded; try later"));
  }
  Revise();
  for (const LayerHolding& gone : experts) {
    const absl::Span<const LayerHolding> one = absl::MakeConstSpan(&gone, 1);
    absl::Status status = device_ == nullptr ? absl::OkStatus() : device_->Drop(one);
    if (!status.ok()) return absl::Status(status.code(), absl::StrCat(description_.name, ": ", status.message()));
    store_->Drop(one);
    DescribeHoldings();
  }
  return description_;
}

std::vector<LayerTokens> ExpertShard::Tokens() const {
  std::vector<LayerTokens> tokens;
  for (const LayerHolding& holding : Describe().holdings) {
    tokens.push_back({holding.layer, metrics_.Tokens(holding.layer)});
  }
  return tokens;
}

absl::Status ExpertShard::Check(const ExpertCall& call, const MatView& out) const {
  RETURN_IF_ERROR(ValidateExpertCall(call, limits_));
  RETURN_IF_ERROR(ValidateReplyView(call, out));
  if (call.rows.dtype != description_.row_dtype) {
    return absl::InvalidArgumentError(
        absl::StrCat("rows.dtype: ", Name(call.rows.dtype), " where this shard takes ", Name(description_.row_dtype)));
  }
  if (call.pairs() > pairs_max_) {
    return absl::InvalidArgumentError(absl::StrCat("experts: ", call.pairs(), " ids, at most ", pairs_max_));
  }
  if (call.placement_epoch != description_.placement_epoch) {
    return absl::FailedPreconditionError(
        absl::StrCat("placement_epoch: ", call.placement_epoch, ", here it is ", description_.placement_epoch));
  }
  const ModelSpec& spec = checkpoint_.spec();
  if (Value(call.layer) >= spec.layers || !spec.IsMoe(call.layer)) {
    return absl::InvalidArgumentError(
        absl::StrCat("layer: ", Value(call.layer), " has no routed experts in this model of ", spec.layers, " layers"));
  }
  for (size_t i = 0; i < call.experts.size(); ++i) {
    const int32_t expert = call.experts[i];
    if (store_->Find(call.layer, ExpertId{expert}) != nullptr) continue;
    if (expert >= spec.gate.experts) {
      return absl::InvalidArgumentError(
          absl::StrCat("experts[", i, "]: ", expert, " of a model with ", spec.gate.experts, " experts a layer"));
    }
    return absl::FailedPreconditionError(absl::StrCat("experts[", i, "]: layer ", Value(call.layer), " expert ", expert,
                                                      " is not held here; held of ", store_->Summary(call.layer)));
  }
  // Rows on the device are not looked at: one that is not finite spoils its own results alone, which its router notes.
  return call.rows.device == Device::kCpu ? ValidateRowValues(call.rows) : absl::OkStatus();
}

absl::Status ExpertShard::Compute(const ExpertCall& call, MatView out, absl::Time arrival,
                                  const std::function<void(int64_t)>& landed) {
  const absl::Time begin = absl::Now();
  if (begin >= call.deadline) {
    return absl::DeadlineExceededError(
        absl::StrCat("the call's turn came after its deadline; it waited ", absl::FormatDuration(begin - arrival)));
  }
  if (device_ != nullptr) {
    RETURN_IF_ERROR(ComputeOnDevice(call, out, landed));
  } else {
    grouped_.Run(
        call.rows, call.row_offsets, call.experts,
        [&](ExpertId expert) -> const FfnWeights& { return *store_->Find(call.layer, expert); }, out);
    // On a machine that it shares with the attention service, that one has work for the cores until the next call.
    if (begin - last_end_ > absl::FromChrono(ThreadPool::kSpinMax)) threads_.Rest();
    last_end_ = absl::Now();
  }
  // A page that has gone from its file reads as zeros: nothing computed with it may leave the process.
  RETURN_IF_ERROR(checkpoint_.CheckStillWhole());
  metrics_.CountRun(call, begin - arrival, absl::Now() - begin);
  return absl::OkStatus();
}

absl::Status ExpertShard::ComputeOnDevice(const ExpertCall& call, MatView out,
                                          const std::function<void(int64_t)>& landed) {
  for (const int32_t expert : call.experts) {
    if (device_->Holds(call.layer, expert)) continue;
    return absl::FailedPreconditionError(
        absl::StrCat("layer ", Value(call.layer), " expert ", expert, " did not fit on the device"));
  }
  const absl::Status status = device_->Run(call.layer, call.rows, call.row_offsets, call.experts, out, landed);
  if (absl::IsUnavailable(status) && on_device_lost_) std::exchange(on_device_lost_, nullptr)(status);
  return status;
}

absl::Status ExpertShard::RunInPieces(const ExpertCall& call, MatView out,
                                      const std::function<void(int64_t)>& landed) {
  const absl::Time arrival = absl::Now();
  std::lock_guard<std::mutex> turn(mutex_);
  absl::Status status = Check(call, out);
  if (status.ok()) status = Compute(call, out, arrival, landed);
  metrics_.CountEnd(status.code());
  if (status.ok()) return status;
  return absl::Status(status.code(), absl::StrCat(description_.name, ": ", status.message()));
}

}  // namespace conclave
