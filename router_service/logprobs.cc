#include "router_service/logprobs.h"

#include <algorithm>
#include <cmath>

#include "moe/base/check.h"

namespace conclave {
namespace {

// The `count` largest logits, the largest first, the lower id among equals.
std::vector<LikelyToken> Largest(absl::Span<const float> logits, size_t count) {
  std::vector<LikelyToken> top;
  if (count == 0) return top;
  top.reserve(count + 1);
  for (size_t id = 0; id < logits.size(); ++id) {
    // Ids ascend: among equals the one that came first stays in front.
    if (top.size() == count && logits[id] <= top.back().logit) continue;
    const auto place = std::upper_bound(top.begin(), top.end(), logits[id],
                                        [](float logit, const LikelyToken& entry) { return logit > entry.logit; });
    top.insert(place, {static_cast<int32_t>(id), logits[id]});
    if (top.size() > count) top.pop_back();
  }
  return top;
}

}  // namespace

TokenLogprobs LogprobsOf(absl::Span<const float> logits, int32_t id, int top) {
  CONCLAVE_CHECK(id >= 0 && id < static_cast<int64_t>(logits.size()) && top >= 0) << id << ", top " << top;
  DrawnLogits row;
  row.largest = *std::max_element(logits.begin(), logits.end());
  for (float logit : logits) row.total += token_draw::LogitWeight(logit, row.largest, 1.0);
  row.drawn = logits[id];
  return LogprobsOf(row, Largest(logits, static_cast<size_t>(top)), id);
}

TokenLogprobs LogprobsOf(const DrawnLogits& logits, absl::Span<const LikelyToken> top, int32_t id) {
  const double log_sum = std::log(static_cast<double>(logits.total) / token_draw::kWeightOne);
  const auto logprob = [&](float logit) {
    return static_cast<float>(double{logit} - double{logits.largest} - log_sum);
  };
  TokenLogprobs result{id, logprob(logits.drawn), {}};
  result.top.reserve(top.size());
  for (const LikelyToken& token : top) result.top.emplace_back(token.id, logprob(token.logit));
  return result;
}

}  // namespace conclave
