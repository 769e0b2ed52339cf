#include "router_service/expert_balance.h"

#include <algorithm>
#include <numeric>

namespace conclave {

double Balancedness(absl::Span<const uint64_t> tokens) {
  const uint64_t sum = std::accumulate(tokens.begin(), tokens.end(), uint64_t{0});
  if (sum == 0) return 1;
  const uint64_t largest = *std::max_element(tokens.begin(), tokens.end());
  return static_cast<double>(sum) / static_cast<double>(tokens.size()) / static_cast<double>(largest);
}

std::vector<HotExpert> HottestExperts(const std::vector<std::vector<uint64_t>>& tokens, size_t count) {
  std::vector<HotExpert> all;
  for (size_t layer = 0; layer < tokens.size(); ++layer) {
    const uint64_t sum = std::accumulate(tokens[layer].begin(), tokens[layer].end(), uint64_t{0});
    for (size_t expert = 0; expert < tokens[layer].size(); ++expert) {
      if (tokens[layer][expert] == 0) continue;
      all.push_back({static_cast<int>(layer), static_cast<int>(expert),
                     static_cast<double>(tokens[layer][expert]) / static_cast<double>(sum)});
    }
  }
  const auto heat = [&tokens](const HotExpert& hot) {
    return hot.share * static_cast<double>(tokens[static_cast<size_t>(hot.layer)].size());
  };
  const size_t kept = std::min(count, all.size());
  std::partial_sort(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(kept), all.end(),
                    [&heat](const HotExpert& a, const HotExpert& b) { return heat(a) > heat(b); });
  all.resize(kept);
  return all;
}

Counter* AddLayerShardTokens(Metrics& metrics, const std::string& layer, const std::string& shard) {
  return metrics.AddCounter("conclave_router_layer_shard_tokens_total",
                            "Tokens of a layer that a shard has run, once for each of their experts there.",
                            {{"layer", layer}, {"shard", shard}});
}

Gauge* AddLayerBalancedness(Metrics& metrics, const std::string& layer, const std::string& of) {
  return metrics.AddGauge("conclave_router_layer_balancedness",
                          "Mean over largest of a layer's tokens by expert, or by shard, in the last 30 to 60 seconds: "
                          "1 is perfect.",
                          {{"layer", layer}, {"of", of}});
}

}  // namespace conclave
