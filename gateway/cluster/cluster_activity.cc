#include "gateway/cluster/cluster_activity.h"

#include <algorithm>
#include <numeric>

#include "absl/time/time.h"

namespace conclave {
namespace {

// A counter's growth; a service that started anew counts from zero.
uint64_t Growth(uint64_t before, uint64_t now) { return now >= before ? now - before : now; }

void AddLayers(const RouterSnapshot& router, const RouterSnapshot* before, LayerTokens& layers) {
  for (int i = 0; i < router.experts.use_size(); ++i) {
    const v1::LayerExpertUse& use = router.experts.use(i);
    const bool comparable = before != nullptr && i < before->experts.use_size() &&
                            before->experts.use(i).tokens_size() == use.tokens_size();
    std::vector<uint64_t>& tokens = layers[use.layer()];
    tokens.resize(std::max<size_t>(tokens.size(), static_cast<size_t>(use.tokens_size())), 0);
    for (int expert = 0; expert < use.tokens_size(); ++expert) {
      const uint64_t was = comparable ? before->experts.use(i).tokens(expert) : 0;
      tokens[static_cast<size_t>(expert)] += Growth(was, use.tokens(expert));
    }
  }
}

void AddShards(const RouterSnapshot& router, const RouterSnapshot* before, std::vector<ShardActivity>& shards) {
  for (int i = 0; i < router.experts.shards_size(); ++i) {
    const v1::ShardState& state = router.experts.shards(i);
    auto shard = std::find_if(shards.begin(), shards.end(), [&](const auto& s) { return s.name == state.name(); });
    if (shard == shards.end()) shard = shards.insert(shards.end(), {state.name(), state.address()});
    const bool reached = (shard->healthy || shard->avoided) && (state.healthy() || state.avoided());
    shard->healthy = shard->healthy && state.healthy();
    shard->avoided = reached && !shard->healthy;
    shard->experts.clear();
    for (const v1::ShardLayer& layer : state.layers()) {
      shard->experts[layer.layer()].assign(layer.experts().begin(), layer.experts().end());
    }
    const bool comparable = before != nullptr && i < before->experts.shards_size();
    shard->rows += Growth(comparable ? before->experts.shards(i).rows_total() : 0, state.rows_total());
  }
}

const RouterSnapshot* Before(const ClusterSnapshot* before, size_t router) {
  if (before == nullptr || router >= before->routers.size() || !before->routers[router].error.ok()) return nullptr;
  return &before->routers[router];
}

}  // namespace

int ShardActivity::experts_held() const {
  size_t held = 0;
  for (const auto& [layer, ids] : experts) held += ids.size();
  return static_cast<int>(held);
}

ClusterActivity ActivityBetween(const ClusterSnapshot* before, const ClusterSnapshot& now) {
  ClusterActivity activity;
  if (before != nullptr) activity.seconds = absl::ToDoubleSeconds(now.time - before->time);
  for (size_t i = 0; i < now.routers.size(); ++i) {
    if (!now.routers[i].error.ok()) continue;
    AddShards(now.routers[i], Before(before, i), activity.shards);
    AddLayers(now.routers[i], Before(before, i), activity.layers);
  }
  return activity;
}

double Imbalance(const std::vector<uint64_t>& tokens) {
  const uint64_t total = std::accumulate(tokens.begin(), tokens.end(), uint64_t{0});
  if (total == 0) return 0;
  return static_cast<double>(*std::max_element(tokens.begin(), tokens.end())) * static_cast<double>(tokens.size()) /
         static_cast<double>(total);
}

}  // namespace conclave
