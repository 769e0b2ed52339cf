#include "router_service/logprobs.h"

#include <algorithm>
#include <cmath>

#include "moe/base/check.h"
#include "moe/kernels/token_draw.h"

namespace conclave {
namespace {

// The `count` largest logits, the largest first, the lower id among equals.
std::vector<std::pair<int32_t, float>> Largest(absl::Span<const float> logits, size_t count) {
  std::vector<std::pair<int32_t, float>> top;
  if (count == 0) return top;
  top.reserve(count + 1);
  for (size_t id = 0; id < logits.size(); ++id) {
    // Ids ascend: among equals the one that came first stays in front.
    if (top.size() == count && logits[id] <= top.back().second) continue;
    const auto place = std::upper_bound(top.begin(), top.end(), logits[id],
                                        [](float logit, const auto& entry) { return logit > entry.second; });
    top.insert(place, {static_cast<int32_t>(id), logits[id]});
    if (top.size() > count) top.pop_back();
  }
  return top;
}

}  // namespace

TokenLogprobs LogprobsOf(absl::Span<const float> logits, int32_t id, int top) {
  CONCLAVE_CHECK(id >= 0 && id < static_cast<int64_t>(logits.size()) && top >= 0) << id << ", top " << top;
  const double largest = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (float logit : logits) sum += token_draw::ExpOfNonPositive(double{logit} - largest);
  const double log_sum = std::log(sum);
  const auto logprob = [&](float logit) { return static_cast<float>(double{logit} - largest - log_sum); };
  TokenLogprobs result{id, logprob(logits[id]), Largest(logits, static_cast<size_t>(top))};
  for (auto& [other, value] : result.top) value = logprob(value);
  return result;
}

}  // namespace conclave
