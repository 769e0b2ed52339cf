// The expert-parallel load balancer: of which experts of a layer shards should hold further copies, so that no shard
// has much more to do than the others.
//
// After the idea of DeepSeek's EPLB (github.com/deepseek-ai/EPLB; DeepSeek-V3, section 3.4): experts that get many
// tokens are held more than once, and copies lie where they even shards out. Three things differ. It starts from what
// is held, and adds one copy at a time as long as each is worth its way, so that there are few moves and a plan that is
// carried out in part is a plan as well. An expert's tokens are not taken to split evenly over its copies: attention
// services send them where there is less to do (load_split.h). And there is no hierarchy of machines and devices: a row
// travels once to each shard, whatever machine that is on, so that a group of experts on one machine saves nothing.
//
// Pure functions: the same input gives the same plan on every machine that rounds as IEEE 754 says.
#ifndef CONCLAVE_MOE_PLACEMENT_EPLB_H_
#define CONCLAVE_MOE_PLACEMENT_EPLB_H_

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/types/span.h"
#include "moe/base/ids.h"
#include "moe/placement/load_split.h"

namespace conclave {

// What a shard can take of one layer.
struct EplbShard {
  int slots = 0;        // experts that it may hold; where it holds more, it is full
  bool frozen = false;  // what it holds must stay as it is
};

// How much a plan must bring.
struct EplbOptions {
  int copies_min = 1;      // an expert keeps at least so many holders, if it has them
  double gain_min = 0.05;  // by this share a plan must lower max/mean, or nothing is planned
};

// The shard `to` takes `expert`, after it has let `evict` go, of which others hold copies.
struct EplbStep {
  ExpertId expert{0};
  int32_t to = 0;
  std::optional<ExpertId> evict;
};

// Any number of steps from the front is a plan too, in which all that is to go may go before anything comes: of the
// holders that an expert has now it keeps at least one, and copies_min if it has as many. No shard gets beyond its
// slots.
struct EplbPlan {
  std::vector<EplbStep> steps;
  double imbalance_now = 1, imbalance_planned = 1;  // max/mean over shards, in the even split of load_split.h
};

// Plans one layer. tokens: [experts], what each of them got lately. Experts without a holder come first, whatever it
// brings: they go where there is room, those with most tokens to the shards with least, and stay without one where no
// shard has room. REQUIRES: tokens.size() == holders.size(); holders as in load_split.h, of shards.size() shards
EplbPlan PlanLayer(absl::Span<const double> tokens, absl::Span<const EplbShard> shards, const ExpertHolders& holders,
                   const EplbOptions& options);

}  // namespace conclave

#endif  // CONCLAVE_MOE_PLACEMENT_EPLB_H_
