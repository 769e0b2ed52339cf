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
#include "moe/daemon/peer_list.h"
#include "moe/grammar/token_trie.h"
#include "moe/kernels/kernels.h"
#include "moe/model/expert_pool.h"
#include "moe/model/kv_storage.h"
#include "moe/model/numeric_profile.h"
#include "moe/placement/placement.h"
#include "moe/tensor/weight_view.h"
#include "moe/transport/grpc/grpc_shard_control.h"
#include "moe/transport/nccl/nccl_pair.h"
#include "moe/transport/shard_control.h"
#include "moe/transport/transport.h"
#include "router_service/elastic_experts.h"
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
absl::Status LoadWeights(const Checkpoint& checkpoint, bool with_experts, Metrics& metrics) {
  Gauge* const loaded = metrics.AddGauge("conclave_router_loaded_bytes", "Weights in memory, stored bytes.", {});
  Gauge* const progress =
      metrics.AddGauge("conclave_router_load_ratio", "Share of the matrices to be read that are in memory.", {});
  const std::vector<TensorSpec> matrices = MatricesRead(checkpoint.spec(), with_experts);
  absl::Time next_log = absl::Now() + kProgressPause;
  int64_t bytes = 0;
  for (size_t i = 0; i < matrices.size(); ++i) {
    const std::vector<int64_t>& shape = matrices[i].shape;
    ASSIGN_OR_RETURN(const WeightView weight, checkpoint.Weight(matrices[i].name, shape[0], shape[1]));
    RETURN_IF_ERROR(checkpoint.Load(weight));
    bytes += StoredBytes(weight);
    loaded->Set(static_cast<double>(bytes));
    progress->Set(static_cast<double>(i + 1) / static_cast<double>(matrices.size()));
    if (absl::Now() < next_log) continue;
    LogInfo(absl::StrCat("loading: ", i + 1, " of ", matrices.size(), " matrices, ", bytes >> 20, " MiB"));
    next_log = absl::Now() + kProgressPause;
  }
  progress->Set(1);
  return absl::OkStatus();
}

// What the model's tokens say. Null, and a line in the log, where there is no tokenizer: only grammars need it here.
std::shared_ptr<const TokenTrie> LoadVocabulary(const std::string& directory, const ModelSpec& spec) {
  const auto vocabulary = TokenTrie::Load(directory, spec.vocab, spec.eos_ids);
  if (vocabulary.ok()) return *vocabulary;
  LogWarning(absl::StrCat("requests with a grammar are refused: ", vocabulary.status().message()));
  return nullptr;
}

class StackImpl final : public ServingStack {
 public:
  explicit StackImpl(const ServingStackOptions& options) : options_(options) {}

  absl::Status Start(Metrics& metrics) {
    ASSIGN_OR_RETURN(checkpoint_, Checkpoint::Open(options_.directory));
    ASSIGN_OR_RETURN(target_, ComputeTarget::Create(options_.target));
    kernels_ = &target_->kernels();
    const bool local = options_.shards.empty();
    if (options_.load && target_->memory() == nullptr) {
      RETURN_IF_ERROR(LoadWeights(*checkpoint_, local, metrics));
    }
    threads_.emplace(options_.threads.threads, options_.threads.cpus);
    EngineOptions engine = options_.engine;
    engine.metrics = &metrics;
    engine.vocabulary = LoadVocabulary(options_.directory, checkpoint_->spec());
    if (engine.kv_block_tokens == 0) engine.kv_block_tokens = target_->kv_block_tokens();
    if (engine.context_max == 0) engine.context_max = ContextThatFits(engine);
    RETURN_IF_ERROR(local ? UseLocalExperts(engine.batch_tokens_max) : UseShards(engine.batch_tokens_max, metrics));
    ASSIGN_OR_RETURN(engine_, Engine::Create(*checkpoint_, *target_, *threads_, *experts_,
                                             local ? experts_.get() : nullptr, engine));
    if (target_->memory() != nullptr) LogInfo(absl::StrCat("GPU memory: ", target_->memory()->Plan()));
    const ModelSpec& spec = checkpoint_->spec();
    identity_ = {options_.model_id,
                 checkpoint_->fingerprint(),
                 NumericProfile(*kernels_, options_.row_format, target_->cache_dtype(spec, engine.kv_format)),
                 spec.model_type,
                 engine.context_max,
                 spec.vocab};
    return absl::OkStatus();
  }

  Engine& engine() override { return *engine_; }
  const RouterIdentity& identity() const override { return identity_; }

  ExpertMapView ExpertMap() const override {
    if (remote_ == nullptr) return map_;
    const std::shared_ptr<const ShardSet> set = remote_->current();
    ExpertMapView map;
    map.placement_epoch = set->experts->placement()->epoch();
    const std::vector<ShardFigures> figures = set->experts->shard_figures();
    const std::vector<ShardHoldings> holdings = set->experts->holdings();
    for (size_t i = 0; i < figures.size(); ++i) {
      map.shards.push_back(
          {set->addresses[i], figures[i].healthy(), holdings[i], figures[i].rows, figures[i].avoided});
    }
    return map;
  }

 private:
  // A model's own limit may need more memory than anybody wants to give to the cache.
  int ContextThatFits(const EngineOptions& engine) const {
    const ModelSpec& spec = checkpoint_->spec();
    const DType dtype = target_->cache_dtype(spec, engine.kv_format);
    const int64_t tokens =
        engine.kv_bytes / KvBlockBytes(spec, dtype, engine.kv_block_tokens) * engine.kv_block_tokens;
    // Where not even one block fits, the engine's own refusal says what is needed.
    if (tokens == 0 || tokens >= spec.context_max) return spec.context_max;
    LogWarning(absl::StrCat("contexts are limited to ", tokens, " of the model's ", spec.context_max,
                            " tokens by --kv-memory"));
    return static_cast<int>(tokens);
  }

  absl::Status UseLocalExperts(int rows_max) {
    ASSIGN_OR_RETURN(experts_, target_->MakeLocalExperts(*checkpoint_, *threads_, rows_max, options_.row_format));
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

  // Of so many pairs with shards.
  absl::Status PlanNccl(int rows_max, int64_t pairs) {
    const ModelSpec& spec = checkpoint_->spec();
    const int64_t row_bytes = int64_t{spec.hidden} * SizeOf(RowDType(kernels_->compute));
    const int64_t pair = NcclPairBytesMax(rows_max * row_bytes, rows_max * spec.gate.top_k * row_bytes);
    return target_->memory()->Reserve("rows over nccl", pair * pairs);
  }

  absl::Status UseShards(int rows_max, Metrics& metrics) {
    peers_ = PeerList::Start(options_.shards, options_.discovery_interval);
    const bool nccl = options_.transport == TransportKind::kNccl && target_->memory() != nullptr;
    // Before anybody waits for shards; how many a name or a file stands for is known once they are connected.
    if (nccl && !peers_->changes()) {
      RETURN_IF_ERROR(PlanNccl(rows_max, static_cast<int64_t>(options_.shards.size())));
    }
    const absl::Time deadline = absl::Now() + options_.shard_wait;
    const auto connect = [this, rows_max, &metrics](const std::vector<std::string>& addresses,
                                                    std::function<bool()> cancelled) {
      return Connect(addresses, rows_max, std::move(cancelled), metrics);
    };
    ASSIGN_OR_RETURN(auto pool, ElasticExperts::Create(*peers_, connect, deadline, &metrics));
    remote_ = pool.get();
    experts_ = std::move(pool);
    if (nccl && peers_->changes()) {
      const int64_t shards = static_cast<int64_t>(remote_->current()->addresses.size());
      RETURN_IF_ERROR(PlanNccl(rows_max, shards * ElasticExperts::SetsMax(*peers_)));
    }
    if (experts_->row_device() == Device::kCpu) return absl::OkStatus();
    return target_->memory()->Reserve("rows to experts", ElasticExperts::DeviceBytes(checkpoint_->spec(),
                                                                                     experts_->row_dtype(), rows_max,
                                                                                     *peers_));
  }

  absl::StatusOr<std::unique_ptr<ShardSet>> Connect(const std::vector<std::string>& addresses, int rows_max,
                                                    std::function<bool()> cancelled, Metrics& metrics) {
    auto set = std::make_unique<ShardSet>();
    set->addresses = addresses;
    set->control = NewGrpcShardControl(addresses, checkpoint_->fingerprint(), options_.shard_credentials);
    ShardGatheringOptions gathering;
    gathering.deadline = absl::Now() + options_.shard_wait;
    gathering.grace = options_.shard_grace;
    gathering.cancelled = std::move(cancelled);
    if (peers_->changes()) {
      gathering.complete = [this](const std::vector<ShardDescription>& shards) { return HoldAllExperts(shards); };
    }
    ASSIGN_OR_RETURN(const auto shards, GatherShards(*set->control, addresses, gathering, &absl::SleepFor));
    DialOptions transport;
    transport.kind = options_.transport;
    transport.name = options_.router_name;
    transport.model_fingerprint = checkpoint_->fingerprint();
    if (!options_.allow_mixed_numerics) transport.numeric_profile = NumericProfile(*kernels_);
    transport.checksum = options_.checksum;
    transport.credentials = options_.shard_credentials;
    if (target_->memory() != nullptr) transport.accelerator = &target_->memory()->accelerator();
    ASSIGN_OR_RETURN(set->transport, DialShards(addresses, transport));
    RemoteExpertsOptions remote;
    remote.rows_max = rows_max;
    remote.model_fingerprint = checkpoint_->fingerprint();
    remote.row_format = options_.row_format;
    remote.allow_mixed_numerics = options_.allow_mixed_numerics;
    remote.timeout = options_.expert_timeout;
    if (options_.transport == TransportKind::kNccl) remote.memory = target_->pinned_memory();
    // Where the first set's rows lie, the others' must.
    if (row_device_ != Device::kCpu) remote.accelerator = transport.accelerator;
    remote.control = set->control.get();
    remote.metrics = &metrics;
    ASSIGN_OR_RETURN(set->experts,
                     RemoteExperts::Create(checkpoint_->spec(), *kernels_, *set->transport, shards, remote));
    if (!row_device_.has_value()) row_device_ = set->experts->row_device();
    return set;
  }

  bool HoldAllExperts(const std::vector<ShardDescription>& shards) const {
    const ModelSpec& spec = checkpoint_->spec();
    std::vector<ShardHoldings> holdings;
    for (const ShardDescription& shard : shards) holdings.push_back({shard.name, shard.holdings});
    std::vector<LayerId> layers;
    for (int layer = 0; layer < spec.layers; ++layer) {
      if (spec.IsMoe(LayerId{layer})) layers.push_back(LayerId{layer});
    }
    const auto placement = Placement::Create(kStaticPlacementEpoch, layers, spec.gate.experts, holdings);
    // What makes no sense is refused by whoever uses it.
    return !placement.ok() || (*placement)->CheckComplete().ok();
  }

  // They die in reverse order: the engine and its thread first.
  const ServingStackOptions options_;
  std::unique_ptr<Checkpoint> checkpoint_;
  std::unique_ptr<ComputeTarget> target_;
  const Kernels* kernels_ = nullptr;  // target_'s
  std::optional<ThreadPool> threads_;
  std::unique_ptr<PeerList> peers_;
  std::optional<Device> row_device_;  // of sets of shards; Connect's, which is never called twice at a time
  std::unique_ptr<ExpertPool> experts_;
  const ElasticExperts* remote_ = nullptr;  // experts_, where they are remote
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
