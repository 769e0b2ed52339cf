#include "expert_service/expert_store.h"

#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <utility>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "moe/base/check.h"
#include "moe/base/limits.h"
#include "moe/base/status_macros.h"

namespace conclave {

absl::StatusOr<std::unique_ptr<ExpertStore>> ExpertStore::Create(const Checkpoint& checkpoint, int shard_index,
                                                                 int shard_count, int replicas) {
  if (shard_count < 1 || shard_count > limits::kShardsMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("shard-count: ", shard_count, " is not in [1, ", limits::kShardsMax, "]"));
  }
  if (shard_index < 0 || shard_index >= limits::kShardsMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("shard-index: ", shard_index, " is not in [0, ", limits::kShardsMax, ")"));
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
  if (progress) progress(loaded, experts_, 0);
  for (const LayerHolding& holding : holdings_) {
    for (const ExpertId expert : holding.experts) {
      RETURN_IF_ERROR(Load({holding.layer, {expert}}));
      ++loaded;
      if (progress) progress(loaded, experts_, stored_bytes(loaded));
    }
  }
  return checkpoint_.CheckStillWhole();
}

absl::Status ExpertStore::Load(const LayerHolding& held) const {
  for (const ExpertId expert : held.experts) {
    const FfnWeights* weights = Find(held.layer, expert);
    CONCLAVE_CHECK(weights != nullptr) << "layer " << Value(held.layer) << " expert " << Value(expert);
    for (const WeightView& weight : {weights->gate, weights->up, weights->down}) {
      RETURN_IF_ERROR(checkpoint_.Load(weight));
    }
  }
  return absl::OkStatus();
}

absl::Status ExpertStore::CheckExists(absl::Span<const LayerHolding> experts) const {
  const ModelSpec& spec = checkpoint_.spec();
  for (const LayerHolding& asked : experts) {
    const bool routed = Value(asked.layer) >= 0 && Value(asked.layer) < spec.layers && spec.IsMoe(asked.layer);
    for (const ExpertId expert : asked.experts) {
      if (!routed || Value(expert) < 0 || Value(expert) >= spec.gate.experts) {
        return absl::InvalidArgumentError(
            absl::StrCat("experts: layer ", Value(asked.layer), " of this model has no expert ", Value(expert)));
      }
    }
  }
  return absl::OkStatus();
}

absl::Status ExpertStore::Prepare(absl::Span<const LayerHolding> experts) const {
  RETURN_IF_ERROR(CheckExists(experts));
  const ModelSpec& spec = checkpoint_.spec();
  for (const LayerHolding& asked : experts) {
    for (const ExpertId expert : asked.experts) {
      ASSIGN_OR_RETURN(const FfnWeights weights, LoadFfn(checkpoint_, ExpertPrefix(asked.layer, expert), spec.hidden,
                                                         spec.moe_intermediate));
      for (const WeightView& weight : {weights.gate, weights.up, weights.down}) {
        RETURN_IF_ERROR(checkpoint_.Load(weight));
      }
    }
  }
  return absl::OkStatus();
}

absl::Status ExpertStore::CheckHeld(absl::Span<const LayerHolding> experts) const {
  RETURN_IF_ERROR(CheckExists(experts));
  for (const LayerHolding& asked : experts) {
    for (const ExpertId expert : asked.experts) {
      if (Find(asked.layer, expert) != nullptr) continue;
      return absl::FailedPreconditionError(absl::StrCat("experts: layer ", Value(asked.layer), " expert ",
                                                        Value(expert), " is not held here; held of ",
                                                        Summary(asked.layer)));
    }
  }
  return absl::OkStatus();
}

void ExpertStore::Drop(absl::Span<const LayerHolding> experts) {
  for (const LayerHolding& gone : experts) {
    for (LayerHolding& held : holdings_) {
      if (held.layer != gone.layer) continue;
      for (const ExpertId expert : gone.experts) {
        const FfnWeights* weights = Find(gone.layer, expert);
        if (weights == nullptr) continue;  // named twice
        for (const WeightView& weight : {weights->gate, weights->up, weights->down}) checkpoint_.Evict(weight);
        weights_.Remove(gone.layer, expert);
        held.experts.erase(std::find(held.experts.begin(), held.experts.end(), expert));
        --experts_;
      }
    }
  }
}

absl::StatusOr<std::vector<LayerHolding>> ExpertStore::NewOf(absl::Span<const LayerHolding> experts) const {
  RETURN_IF_ERROR(CheckExists(experts));
  std::map<int32_t, std::set<ExpertId>> by_layer;
  for (const LayerHolding& asked : experts) {
    for (const ExpertId expert : asked.experts) {
      if (Find(asked.layer, expert) == nullptr) by_layer[Value(asked.layer)].insert(expert);
    }
  }
  std::vector<LayerHolding> fresh;
  for (const auto& [layer, ids] : by_layer) fresh.push_back({LayerId{layer}, {ids.begin(), ids.end()}});
  return fresh;
}

absl::StatusOr<std::vector<LayerHolding>> ExpertStore::Hold(absl::Span<const LayerHolding> experts,
                                                            int64_t bytes_max) {
  ASSIGN_OR_RETURN(std::vector<LayerHolding> fresh, NewOf(experts));
  int64_t count = 0;
  for (const LayerHolding& holding : fresh) count += static_cast<int64_t>(holding.experts.size());
  if (count == 0) return fresh;
  const ModelSpec& spec = checkpoint_.spec();
  // The routed experts of a model are all of one size.
  ASSIGN_OR_RETURN(const FfnWeights first,
                   LoadFfn(checkpoint_, ExpertPrefix(fresh[0].layer, fresh[0].experts[0]), spec.hidden,
                           spec.moe_intermediate));
  if (bytes_max > 0 && stored_bytes() + count * StoredBytes(first) > bytes_max) {
    return absl::ResourceExhaustedError(absl::StrCat("experts: ", count, " more of ", StoredBytes(first),
                                                     " bytes each beside ", stored_bytes(), " bytes held; at most ",
                                                     bytes_max, " are allowed (--expert-memory)"));
  }
  for (const LayerHolding& holding : fresh) {
    for (const ExpertId expert : holding.experts) RETURN_IF_ERROR(weights_.Add(holding.layer, expert));
    for (LayerHolding& held : holdings_) {
      if (held.layer != holding.layer) continue;
      held.experts.insert(held.experts.end(), holding.experts.begin(), holding.experts.end());
      std::sort(held.experts.begin(), held.experts.end());
    }
    experts_ += static_cast<int64_t>(holding.experts.size());
  }
  return fresh;
}

std::string ExpertStore::Summary(LayerId layer) const {
  for (const LayerHolding& holding : holdings_) {
    if (holding.layer == layer) return absl::StrCat("layer ", Value(layer), ": ", FormatExperts(holding.experts));
  }
  return absl::StrCat("layer ", Value(layer), " routes to no experts");
}

}  // namespace conclave
