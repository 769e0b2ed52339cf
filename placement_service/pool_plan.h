// A plan for all layers of a pool of shards: what moves next, and what that is good for.
#ifndef CONCLAVE_PLACEMENT_SERVICE_POOL_PLAN_H_
#define CONCLAVE_PLACEMENT_SERVICE_POOL_PLAN_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "moe/base/ids.h"
#include "moe/placement/load_split.h"
#include "moe/transport/expert_handler.h"

namespace conclave {

// A shard that answered.
struct PoolShard {
  std::string address;
  ShardDescription description;
  bool full = false;   // it has just refused to take more
  bool fixed = false;  // it has just failed a change for reasons of its own: it is left as it is
};

// One layer: what is held and what had to be done lately.
struct PoolLayer {
  LayerId layer{0};
  ExpertHolders holders;             // [experts], places in the list of shards
  std::vector<double> tokens;        // [experts]
  std::vector<double> shard_tokens;  // [shards], what each of them ran
};

// What was found when the shards were asked. All shards serve one model.
struct Pool {
  std::vector<PoolShard> shards;
  std::vector<PoolLayer> layers;  // ascending
  int experts = 0;                // of a layer
  int orphans = 0;                // experts, over all layers, that no shard holds

  int64_t expert_bytes() const;  // stored bytes of one expert; 0: no shard holds any
};

// The shard `to` takes an expert, after it has let `evict` of the same layer go, which `keeper` holds too. -1: nobody
// who can be relied on does, and so it cannot go.
struct PoolMove {
  LayerId layer{0};
  ExpertId expert{0};
  int32_t to = 0;
  std::optional<ExpertId> evict;
  int32_t keeper = -1;
};

// How much a plan must bring, and how much it may take.
struct PoolPlanOptions {
  double gain_min = 0.1;  // by this share a layer's max/mean must fall
  double spare = 0.25;    // copies beyond the replicas, as a share of the experts, where shards have no limit
  int moves_max = 64;     // of one plan
};

// What a plan is good for in one layer.
struct LayerReport {
  LayerId layer{0};
  double measured = 1;  // max/mean of what shards ran
  double possible = 1;  // of the holdings as they are, with rows sent where there is less to do
  double planned = 1;   // of the holdings after all moves, those beyond moves_max included
  int moves = 0;
};

// What moves next, and what all of it is good for.
struct PoolPlan {
  std::vector<PoolMove> moves;      // those that bring most for each expert moved come first
  int moves_left = 0;               // beyond moves_max
  std::vector<LayerReport> layers;  // ascending
  // The layers' means, by tokens.
  double measured = 1, possible = 1, planned = 1;
};

// Layers with fewer tokens than this for each shard are left alone: what is seen of them may be chance.
inline constexpr double kTokensPerShardMin = 250;

// INVALID_ARGUMENT says what is wrong with what a shard says it holds: layers and each layer's experts ascend, and are
// of those that a model can have, and that this one has where the shard says how many.
absl::Status CheckHoldings(const ShardDescription& description);

// The shards' descriptions, the layers they hold experts of, and who holds which; tokens are for the caller to fill in.
// Shards of other models than the first one's are left out. Layers ascend. REQUIRES: CheckHoldings is OK of each.
Pool MakePool(std::vector<PoolShard> shards);

// Deterministic. Experts without a holder come first. An expert keeps as many holders as the shards' --replicas say, if
// it has them. What a shard may hold follows from its --expert-memory, else from `spare`.
PoolPlan PlanPool(const Pool& pool, const PoolPlanOptions& options);

}  // namespace conclave

#endif  // CONCLAVE_PLACEMENT_SERVICE_POOL_PLAN_H_
