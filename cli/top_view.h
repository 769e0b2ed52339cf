// Draws a cluster as text: attention services, shards, and every expert of every layer. Pure functions.
#ifndef CONCLAVE_CLI_TOP_VIEW_H_
#define CONCLAVE_CLI_TOP_VIEW_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/container/btree_map.h"
#include "cli/cluster_snapshot.h"

namespace conclave {

// One shard, over all attention services that use it.
struct ShardRow {
  std::string name, address;
  bool healthy = true;  // every attention service says so
  int experts = 0;      // held, over all layers
  uint64_t rows = 0;    // answered
};

// Tokens by expert of one layer, over all attention services.
using LayerTokens = absl::btree_map<int32_t, std::vector<uint64_t>>;

// Between two snapshots, or since start where `before` is null.
struct ClusterActivity {
  double seconds = 0;  // 0: since start, so that there are no rates
  std::vector<ShardRow> shards;
  LayerTokens layers;
};
ClusterActivity ActivityBetween(const ClusterSnapshot* before, const ClusterSnapshot& now);

// Largest over mean: 1 is perfect balance; 0 where nothing was done.
double Imbalance(const std::vector<uint64_t>& tokens);

// Lines of at most `columns` characters, each ending in '\n'; `colour` allows ANSI colours. At most `layers_max`
// layers.
std::string TopView(const ClusterSnapshot* before, const ClusterSnapshot& now, int columns, int layers_max,
                    bool colour);
// One JSON object of the same.
std::string TopJson(const ClusterSnapshot* before, const ClusterSnapshot& now);

}  // namespace conclave

#endif  // CONCLAVE_CLI_TOP_VIEW_H_
