// What a cluster's experts and shards did between two moments, over all attention services. Pure functions.
#ifndef CONCLAVE_GATEWAY_CLUSTER_CLUSTER_ACTIVITY_H_
#define CONCLAVE_GATEWAY_CLUSTER_CLUSTER_ACTIVITY_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/container/btree_map.h"
#include "gateway/cluster/cluster_snapshot.h"

namespace conclave {

// One shard, over all attention services that use it.
struct ShardActivity {
  std::string name, address;
  bool healthy = true;                                          // every attention service says so
  bool avoided = false;                                         // by one at least, for the moment; all reach it
  absl::btree_map<int32_t, std::vector<int32_t>> experts = {};  // held, by layer
  uint64_t rows = 0;                                            // answered
  int experts_held() const;
};

// Tokens by expert, by layer, over all attention services.
using LayerTokens = absl::btree_map<int32_t, std::vector<uint64_t>>;

// Between two snapshots, or since start.
struct ClusterActivity {
  double seconds = 0;  // 0: since start, so that there are no rates
  std::vector<ShardActivity> shards;
  LayerTokens layers;
};
// `before` null: since start. A service that started anew between the two counts from zero.
ClusterActivity ActivityBetween(const ClusterSnapshot* before, const ClusterSnapshot& now);

// Largest over mean: 1 is perfect balance; 0 where nothing was done.
double Imbalance(const std::vector<uint64_t>& tokens);

}  // namespace conclave

#endif  // CONCLAVE_GATEWAY_CLUSTER_CLUSTER_ACTIVITY_H_
