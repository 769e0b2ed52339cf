#include "placement_service/pool_plan.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "moe/base/limits.h"
#include "moe/placement/eplb.h"

namespace conclave {
namespace {

int64_t HeldBy(const ShardDescription& shard) {
  int64_t count = 0;
  for (const LayerHolding& holding : shard.holdings) count += static_cast<int64_t>(holding.experts.size());
  return count;
}

int Replicas(const Pool& pool) {
  int replicas = 1;
  for (const PoolShard& shard : pool.shards) replicas = std::max(replicas, shard.description.replicas);
  return replicas;
}

// Experts that the shard can hold over all layers; -1: no limit.
int64_t FitsIn(const Pool& pool, const PoolShard& shard) {
  const int64_t bytes = pool.expert_bytes();
  if (shard.full) return HeldBy(shard.description);
  if (shard.description.expert_bytes_max == 0 || bytes == 0) return -1;
  return static_cast<int64_t>(shard.description.expert_bytes_max) / bytes;
}

// Slots are a layer's equal part of what a shard can hold, as long as the others have left so many.
std::vector<EplbShard> RoomOfALayer(const Pool& pool, const PoolLayer& layer, const PoolPlanOptions& options) {
  const double copies = static_cast<double>(pool.experts) * (Replicas(pool) + options.spare);
  const int share = static_cast<int>(std::ceil(copies / static_cast<double>(pool.shards.size()) - 1e-9));
  std::vector<int64_t> held(pool.shards.size());
  for (const auto& list : layer.holders) {
    for (const int32_t shard : list) ++held[static_cast<size_t>(shard)];
  }
  std::vector<EplbShard> room;
  for (size_t i = 0; i < pool.shards.size(); ++i) {
    const PoolShard& shard = pool.shards[i];
    const int64_t fits = FitsIn(pool, shard);
    int64_t slots = share;
    if (fits >= 0) {
      slots = std::min(fits / static_cast<int64_t>(pool.layers.size()),
                       held[i] + std::max<int64_t>(0, fits - HeldBy(shard.description)));
    }
    room.push_back({static_cast<int>(std::min<int64_t>(slots, pool.experts)),
                    shard.fixed || shard.description.revision == 0});
  }
  return room;
}

// A holder that keeps the expert, which `leaver` lets go, when all evictions of the steps are done; -1: none. Attention
// services that take rows of the one must take those of the other.
int32_t KeeperOf(const Pool& pool, const PoolLayer& layer, const std::vector<EplbStep>& steps, ExpertId expert,
                 int32_t leaver) {
  const std::string& profile = pool.shards[static_cast<size_t>(leaver)].description.numeric_profile;
  for (const int32_t shard : layer.holders[static_cast<size_t>(Value(expert))]) {
    const PoolShard& holder = pool.shards[static_cast<size_t>(shard)];
    const bool goes = std::any_of(steps.begin(), steps.end(),
                                  [&](const EplbStep& step) { return step.to == shard && step.evict == expert; });
    if (!goes && !holder.fixed && holder.description.numeric_profile == profile) return shard;
  }
  return -1;
}

struct Candidate {
  PoolMove move;
  bool urgent = false;  // the expert has no holder
  double worth = 0;     // tokens by which the layer's peak falls, for each of its moves
};

double MeanByTokens(const Pool& pool, const std::vector<LayerReport>& layers, double LayerReport::*of) {
  double sum = 0, weight = 0;
  for (size_t i = 0; i < layers.size(); ++i) {
    const auto& shard_tokens = pool.layers[i].shard_tokens;
    const double tokens = std::accumulate(shard_tokens.begin(), shard_tokens.end(), 0.0);
    sum += layers[i].*of * tokens;
    weight += tokens;
  }
  return weight > 0 ? sum / weight : 1;
}

// Takes moves in order until there are `moves_max`, and no more than shards have room for over all layers.
void TakeMoves(const Pool& pool, const std::vector<Candidate>& candidates, int moves_max, PoolPlan& plan) {
  std::vector<int64_t> free;
  for (const PoolShard& shard : pool.shards) {
    const int64_t fits = FitsIn(pool, shard);
    free.push_back(fits < 0 ? INT64_MAX : fits - HeldBy(shard.description));
  }
  for (const Candidate& candidate : candidates) {
    int64_t& room = free[static_cast<size_t>(candidate.move.to)];
    const bool takes_room = !candidate.move.evict.has_value();
    if (static_cast<int>(plan.moves.size()) >= moves_max || (takes_room && room <= 0)) {
      ++plan.moves_left;
      continue;
    }
    room -= takes_room;
    plan.moves.push_back(candidate.move);
  }
}

}  // namespace

int64_t Pool::expert_bytes() const {
  for (const PoolShard& shard : shards) {
    const int64_t held = HeldBy(shard.description);
    if (held > 0) return static_cast<int64_t>(shard.description.expert_bytes) / held;
  }
  return 0;
}

absl::Status CheckHoldings(const ShardDescription& description) {
  const int experts = description.experts_per_layer > 0 ? description.experts_per_layer : limits::kExpertsPerLayerMax;
  int32_t layer = -1;
  for (const LayerHolding& holding : description.holdings) {
    if (Value(holding.layer) <= layer || Value(holding.layer) >= limits::kLayersMax) {
      return absl::InvalidArgumentError(absl::StrCat("holdings: layer ", Value(holding.layer), " after ", layer));
    }
    layer = Value(holding.layer);
    int32_t last = -1;
    for (const ExpertId expert : holding.experts) {
      if (Value(expert) <= last || Value(expert) >= experts) {
        return absl::InvalidArgumentError(
            absl::StrCat("holdings: expert ", Value(expert), " of layer ", layer, " after ", last, ", of ", experts));
      }
      last = Value(expert);
    }
  }
  return absl::OkStatus();
}

Pool MakePool(std::vector<PoolShard> shards) {
  Pool pool;
  for (PoolShard& shard : shards) {
    const bool fits = pool.shards.empty() || shard.description.model_fingerprint ==
                                                 pool.shards[0].description.model_fingerprint;
    if (fits) pool.shards.push_back(std::move(shard));
  }
  std::map<LayerId, ExpertHolders> layers;
  for (const PoolShard& shard : pool.shards) {
    pool.experts = std::max(pool.experts, shard.description.experts_per_layer);
    for (const LayerHolding& holding : shard.description.holdings) {
      layers[holding.layer];
      if (!holding.experts.empty()) pool.experts = std::max(pool.experts, Value(holding.experts.back()) + 1);
    }
  }
  for (auto& [layer, holders] : layers) holders.resize(static_cast<size_t>(pool.experts));
  for (size_t i = 0; i < pool.shards.size(); ++i) {
    for (const LayerHolding& holding : pool.shards[i].description.holdings) {
      for (const ExpertId expert : holding.experts) {
        layers[holding.layer][static_cast<size_t>(Value(expert))].push_back(static_cast<int32_t>(i));
      }
    }
  }
  for (auto& [layer, holders] : layers) {
    for (const auto& list : holders) pool.orphans += list.empty();
    pool.layers.push_back({layer, std::move(holders), std::vector<double>(static_cast<size_t>(pool.experts)),
                           std::vector<double>(pool.shards.size())});
  }
  return pool;
}

PoolPlan PlanPool(const Pool& pool, const PoolPlanOptions& options) {
  PoolPlan plan;
  if (pool.shards.empty()) return plan;
  EplbOptions layer_options;
  layer_options.copies_min = Replicas(pool);
  layer_options.gain_min = options.gain_min;
  std::vector<Candidate> candidates;
  for (const PoolLayer& layer : pool.layers) {
    const double total = std::accumulate(layer.tokens.begin(), layer.tokens.end(), 0.0);
    const bool known = total >= kTokensPerShardMin * static_cast<double>(pool.shards.size());
    const std::vector<double> nothing(layer.tokens.size());
    const EplbPlan steps = PlanLayer(known ? layer.tokens : nothing, RoomOfALayer(pool, layer, options), layer.holders,
                                     layer_options);
    LayerReport report{layer.layer, MaxOverMean(layer.shard_tokens), steps.imbalance_now, steps.imbalance_planned,
                       static_cast<int>(steps.steps.size())};
    for (const EplbStep& step : steps.steps) {
      Candidate candidate{{layer.layer, step.expert, step.to, step.evict, -1}};
      if (step.evict.has_value()) candidate.move.keeper = KeeperOf(pool, layer, steps.steps, *step.evict, step.to);
      candidate.urgent = layer.holders[static_cast<size_t>(Value(step.expert))].empty();
      candidate.worth = (report.possible - report.planned) * total / report.moves;
      candidates.push_back(candidate);
    }
    plan.layers.push_back(report);
  }
  std::stable_sort(candidates.begin(), candidates.end(), [](const Candidate& a, const Candidate& b) {
    return std::make_tuple(!a.urgent, -a.worth) < std::make_tuple(!b.urgent, -b.worth);
  });
  TakeMoves(pool, candidates, options.moves_max, plan);
  plan.measured = MeanByTokens(pool, plan.layers, &LayerReport::measured);
  plan.possible = MeanByTokens(pool, plan.layers, &LayerReport::possible);
  plan.planned = MeanByTokens(pool, plan.layers, &LayerReport::planned);
  return plan;
}

}  // namespace conclave
