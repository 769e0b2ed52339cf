// Shows which experts did the work for a request: one line a layer, one bar chart a shard.
#ifndef CONCLAVE_CLI_EXPERT_REPORT_H_
#define CONCLAVE_CLI_EXPERT_REPORT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "moe/placement/placement.h"

namespace conclave {

// Rows that a request sent to each expert: [layers][experts]; dense layers are empty.
using ExpertUse = std::vector<std::vector<uint32_t>>;

// One holder of everything that `use` counts, for pools whose shards are unknown or that have none.
std::vector<ShardHoldings> SingleHolder(const std::string& name, const ExpertUse& use);

// A table with a header line; each line ends in '\n'. Bars of one layer share a scale: the layer's busiest expert is
// a full block. More experts than `bars_max` on a shard are shown as sums of neighbours.
std::string ExpertReport(const ExpertUse& use, const std::vector<ShardHoldings>& shards, int bars_max);

}  // namespace conclave

#endif  // CONCLAVE_CLI_EXPERT_REPORT_H_
