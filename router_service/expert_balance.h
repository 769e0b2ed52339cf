// How evenly tokens spread, and the names under which Prometheus sees it.
#ifndef CONCLAVE_ROUTER_SERVICE_EXPERT_BALANCE_H_
#define CONCLAVE_ROUTER_SERVICE_EXPERT_BALANCE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "moe/metrics/metrics.h"

namespace conclave {

// Mean over largest, in (0, 1]: 1 is perfect balance, 1 / n all on one of n. 1 where there are no tokens.
double Balancedness(absl::Span<const uint64_t> tokens);

// An expert and its share of its layer's tokens.
struct HotExpert {
  int layer = 0, expert = 0;
  double share = 0;
};
// The `count` hottest by share times the layer's experts, the hottest first; tokens: [layers][experts]. Experts without
// tokens are never hot.
std::vector<HotExpert> HottestExperts(const std::vector<std::vector<uint64_t>>& tokens, size_t count);

// Series that more than one class shows.
Counter* AddLayerShardTokens(Metrics& metrics, const std::string& layer, const std::string& shard);
// of: "experts" or "shards".
Gauge* AddLayerBalancedness(Metrics& metrics, const std::string& layer, const std::string& of);

}  // namespace conclave

#endif  // CONCLAVE_ROUTER_SERVICE_EXPERT_BALANCE_H_
