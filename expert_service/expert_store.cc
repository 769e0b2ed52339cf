#include "expert_service/expert_store.h"

#include <string>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "moe/base/limits.h"
#include "moe/base/status_macros.h"

namespace conclave {

absl::StatusOr<std::unique_ptr<ExpertStore>> ExpertStore::Create(const Checkpoint& checkpoint, int shard_index,
                                                                 int shard_count, int replicas) {
  if (shard_count < 1 || shard_count > limits::kShardsMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("shard-count: ", shard_count, " is not in [1, ", limits::kShardsMax, "]"));
  }
  if (shard_index < 0 || shard_index >= shard_count) {
    return absl::InvalidArgumentError(absl::StrCat("shard-index: ", shard_index, " is not in [0, ", shard_count - 1,
                                                   "]: --shard-count is ", shard_count));
  }
  if (replicas < 1 || replicas > shard_count) {
    return absl::InvalidArgumentError(absl::StrCat("replicas: ", replicas, " is not in [1, ", shard_count,
                                                   "]: --shard-count is ", shard_count));
  }
  const ModelSpec& spec = checkpoint.spec();
  if (spec.moe_layers() == 0) {
    return absl::InvalidArgumentError(absl::StrCat(checkpoint.directory(), ": the model has no routed experts"));
  }
  auto store = absl::WrapUnique(new ExpertStore(checkpoint));
  for (int number = 0; number < spec.layers; ++number) {
    const LayerId layer{number};
    if (!spec.IsMoe(layer)) continue;
    LayerHolding holding{layer, ExpertsOfShard(spec.gate.experts, shard_index, shard_count, replicas)};
    for (const ExpertId expert : holding.experts) RETURN_IF_ERROR(store->weights_.Add(layer, expert));
    store->experts_ += static_cast<int64_t>(holding.experts.size());
    store->holdings_.push_back(std::move(holding));
  }
  return store;
}

absl::Status ExpertStore::LoadAll(const Progress& progress) const {
  int64_t loaded = 0;
  if (progress) progress(loaded, experts_);
  for (const LayerHolding& holding : holdings_) {
    for (const ExpertId expert : holding.experts) {
      const FfnWeights& weights = *Find(holding.layer, expert);
      for (const WeightView& weight : {weights.gate, weights.up, weights.down}) {
        RETURN_IF_ERROR(checkpoint_.Load(weight));
      }
      if (progress) progress(++loaded, experts_);
    }
  }
  return checkpoint_.CheckStillWhole();
}

std::string ExpertStore::Summary(LayerId layer) const {
  for (const LayerHolding& holding : holdings_) {
    if (holding.layer == layer) return absl::StrCat("layer ", Value(layer), ": ", FormatExperts(holding.experts));
  }
  return absl::StrCat("layer ", Value(layer), " routes to no experts");
}

}  // namespace conclave
