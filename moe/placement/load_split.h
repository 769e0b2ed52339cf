// How a layer's tokens spread over shards that hold copies of its experts, if whoever sends them keeps the shards even:
// an expert's tokens go to any of its holders, in any shares.
#ifndef CONCLAVE_MOE_PLACEMENT_LOAD_SPLIT_H_
#define CONCLAVE_MOE_PLACEMENT_LOAD_SPLIT_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"

namespace conclave {

// The shards that hold each expert, [experts], each list without duplicates.
using ExpertHolders = std::vector<std::vector<int32_t>>;

// The tokens of each shard, [shards], in the split that has the least sum of squares, and so the lowest peak that these
// holders allow: a convex problem, in which each expert in turn fills its emptiest holders up to one level, until
// nothing moves. tokens: [experts], none negative; those of experts without a holder go nowhere. Deterministic.
// REQUIRES: tokens.size() == holders.size(), 0 <= every holder < shards
std::vector<double> SplitEvenly(absl::Span<const double> tokens, const ExpertHolders& holders, int shards);

// The largest of `loads` over their mean: 1 is balanced; 1 too where there is no load at all.
double MaxOverMean(absl::Span<const double> loads);

}  // namespace conclave

#endif  // CONCLAVE_MOE_PLACEMENT_LOAD_SPLIT_H_
