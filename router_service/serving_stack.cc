#include "router_service/serving_stack.h"

#include <algorithm>
#include <cstdint>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "moe/base/log.h"
#include "moe/base/status_macros.h"
#include "moe/base/thread_pool.h"
#include "moe/checkpoint/model_spec.h"
#include "moe/checkpoint/model_tensors.h"
#include "moe/kernels/kernels.h"
#include "moe/model/expert_pool.h"
#include "moe/model/kv_storage.h"
#include "moe/model/numeric_profile.h"
#include "moe/placement/placement.h"
#include "moe/tensor/weight_view.h"
#include "moe/transport/grpc/grpc_shard_control.h"
#include "moe/transport/shard_control.h"
#include "moe/transport/transport.h"
#include "router_service/remote_experts.h"
#include "router_service/shard_gathering.h"
#include "router_service/shard_health.h"

namespace conclave {
namespace {

constexpr absl::Duration kProgressPause = absl::Seconds(1);

// The matrices that this process reads: not the routed experts where shards have those, and not the layers of
// multi-token prediction behind the decoder.
std::vector<TensorSpec> MatricesRead(const ModelSpec& spec, bool with_experts) {
  std::vector<TensorSpec> matrices;
  ForEachTensor(spec, [&](const TensorSpec& tensor) {
    if (tensor.shape.size() == 2 && !tensor.mtp && (with_experts || tensor.expert < 0)) matrices.push_back(tensor);
  });
  return matrices;
}

// Brings the matrices that this process reads into memory.
absl::Status LoadWeights(const Checkpoint& checkpoint, bool with_experts) {
  const std::vector<TensorSpec> matrices = MatricesRead(checkpoint.spec(), with_experts);
  absl::Time next_log = absl::Now() + kProgressPause;
  int64_t bytes = 0;
  for (size_t i = 0; i < matrices.size(); ++i) {
    const std::vector<int64_t>& shape = matrices[i].shape;
    ASSIGN_OR_RETURN(const WeightView weight, checkpoint.Weight(matrices[i].name, shape[0], shape[1]));
    RETURN_IF_ERROR(checkpoint.Load(weight));
    bytes += StoredBytes(weight);
    if (absl::Now() < next_log) continue;
    LogInfo(absl::StrCat("loading: ", i + 1, " of ", matrices.size(), " matrices, ", bytes >> 20, " MiB"));
    next_log = absl::Now() + kProgressPause;
  }
  return absl::OkStatus();
}

class StackImpl final : public ServingStack {
 public:
  explicit StackImpl(const ServingStackOptions& options) : options_(options) {}

  absl::Status Start(Metrics& metrics) {
    ASSIGN_OR_RETURN(checkpoint_, Checkpoint::Open(options_.directory));
    ASSIGN_OR_RETURN(target_, ComputeTarget::Create(options_.target));
    kernels_ = &target_->kernels();
    const bool local = options_.shards.empty();
    if (options_.load && target_->memory() == nullptr) RETURN_IF_ERROR(LoadWeights(*checkpoint_, local));
    threads_.emplace(options_.threads);
    EngineOptions engine = options_.engine;
    engine.metrics = &metrics;
    if (engine.context_max == 0) engine.context_max = ContextThatFits(engine.kv_bytes);
    RETURN_IF_ERROR(local ? UseLocalExperts(engine.batch_tokens_max) : UseShards(engine.batch_tokens_max, metrics));
    ASSIGN_OR_RETURN(engine_, Engine::Create(*checkpoint_, *target_, *threads_, *experts_, local ? experts_.get() : nullptr, engine));
    if (target_->memory() != nullptr) LogInfo(absl::StrCat("GPU memory: ", target_->memory()->Plan()));
    const ModelSpec& spec = checkpoint_->spec();
    identity_ = {options_.model_id, checkpoint_->fingerprint(), NumericProfile(*kernels_),
                 spec.model_type,   engine.context_max,         spec.vocab};
    return absl::OkStatus();
  }

  Engine& engine() override { return *engine_; }
  const RouterIdentity& identity() const override { return identity_; }

  ExpertMapView ExpertMap() const override {
    if (remote_ == nullptr) return map_;
    ExpertMapView map;
    map.placement_epoch = remote_->placement()->epoch();
    const std::vector<ShardFigures> figures = remote_->shard_figures();
    const std::vector<ShardHoldings> holdings = remote_->holdings();
    for (size_t i = 0; i < figures.size(); ++i) {
      map.shards.push_back({options_.shards[i], figures[i].healthy, holdings[i], figures[i].rows});
    }
    return map;
  }

 private:
  // A model's own limit may need more memory than anybody wants to give to the cache.
  int ContextThatFits(int64_t kv_bytes) const {
    const ModelSpec& spec = checkpoint_->spec();
    const int64_t blocks = kv_bytes / KvBlockBytes(spec, CacheDType(kernels_->compute));
    const int64_t tokens = blocks * kKvBlockTokens;
    // Where not even one block fits, the engine's own refusal says what is needed.
    if (tokens == 0 || tokens >= spec.context_max) return spec.context_max;
    LogWarning(absl::StrCat("contexts are limited to ", tokens, " of the model's ", spec.context_max,
                            " tokens by --kv-memory"));
    return static_cast<int>(tokens);
  }

  absl::Status UseLocalExperts(int rows_max) {
    ASSIGN_OR_RETURN(experts_, target_->MakeLocalExperts(*checkpoint_, *threads_, rows_max));
    const ModelSpec& spec = checkpoint_->spec();
    ShardView here;
    here.holdings.name = "local";
    for (int layer = 0; layer < spec.layers; ++layer) {
      if (!spec.IsMoe(LayerId{layer})) continue;
      here.holdings.holdings.push_back({LayerId{layer}, ExpertsOfShard(spec.gate.experts, 0, 1)});
    }
    map_.placement_epoch = kStaticPlacementEpoch;
    map_.shards.push_back(std::move(here));
    return absl::OkStatus();
  }

  absl::Status UseShards(int rows_max, Metrics& metrics) {
    control_ = NewGrpcShardControl(options_.shards, checkpoint_->fingerprint(), options_.shard_credentials);
    ShardGatheringOptions gathering;
    gathering.deadline = absl::Now() + options_.shard_wait;
    gathering.grace = options_.shard_grace;
    ASSIGN_OR_RETURN(const auto shards, GatherShards(*control_, options_.shards, gathering, &absl::SleepFor));
    DialOptions transport;
    transport.kind = options_.transport;
    transport.name = options_.router_name;
    transport.model_fingerprint = checkpoint_->fingerprint();
    if (!options_.allow_mixed_numerics) transport.numeric_profile = NumericProfile(*kernels_);
    transport.checksum = options_.checksum;
    transport.credentials = options_.shard_credentials;
    ASSIGN_OR_RETURN(transport_, DialShards(options_.shards, transport));
    RemoteExpertsOptions remote;
    remote.rows_max = rows_max;
    remote.model_fingerprint = checkpoint_->fingerprint();
    remote.allow_mixed_numerics = options_.allow_mixed_numerics;
    remote.timeout = options_.expert_timeout;
    remote.control = control_.get();
    remote.metrics = &metrics;
    ASSIGN_OR_RETURN(auto pool, RemoteExperts::Create(checkpoint_->spec(), *kernels_, *transport_, shards, remote));
    remote_ = pool.get();
    experts_ = std::move(pool);
    return absl::OkStatus();
  }

  // They die in reverse order: the engine and its thread first.
  const ServingStackOptions options_;
  std::unique_ptr<Checkpoint> checkpoint_;
  std::unique_ptr<ComputeTarget> target_;
  const Kernels* kernels_ = nullptr;  // target_'s
  std::optional<ThreadPool> threads_;
  std::unique_ptr<ShardControl> control_;
  std::unique_ptr<Transport> transport_;
  std::unique_ptr<ExpertPool> experts_;
  const RemoteExperts* remote_ = nullptr;  // experts_, where they are remote
  ExpertMapView map_;                      // where experts are local
  RouterIdentity identity_;
  std::unique_ptr<Engine> engine_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<ServingStack>> ServingStack::Create(const ServingStackOptions& options,
                                                                   Metrics& metrics) {
  auto stack = std::make_unique<StackImpl>(options);
  RETURN_IF_ERROR(stack->Start(metrics));
  return stack;
}

}  // namespace conclave
