#include "gateway/routers/balance.h"

#include <xxhash.h>

#include <algorithm>
#include <cmath>
#include <tuple>

namespace conclave {
namespace {

constexpr double kLoadFactor = 1.25;
// So few more than the mean are no imbalance, whatever the mean is.
constexpr int kLoadSlack = 1;

}  // namespace

uint64_t AffinityKey(absl::Span<const int32_t> prompt_ids, absl::string_view salt) {
  const size_t blocks = std::min<size_t>(kAffinityBlocks, prompt_ids.size() / kAffinityBlockTokens);
  if (blocks == 0) return 0;
  const uint64_t seed = XXH64(salt.data(), salt.size(), 0);
  const uint64_t key = XXH64(prompt_ids.data(), blocks * kAffinityBlockTokens * sizeof(int32_t), seed);
  return key == 0 ? 1 : key;
}

std::vector<int> Rank(uint64_t key, absl::Span<const Candidate> candidates) {
  std::vector<int> order;
  int total = 0;
  for (size_t i = 0; i < candidates.size(); ++i) {
    if (!candidates[i].usable) continue;
    order.push_back(static_cast<int>(i));
    total += candidates[i].load;
  }
  if (order.empty()) return order;
  const int bound =
      static_cast<int>(std::ceil(kLoadFactor * (total + 1) / static_cast<double>(order.size()))) + kLoadSlack;
  const auto rank = [&](int index) {
    const Candidate& candidate = candidates[static_cast<size_t>(index)];
    const uint64_t weight = ~XXH64(candidate.name.data(), candidate.name.size(), key);
    const bool above = key == 0 || candidate.load + 1 > bound;
    return std::tuple(above, above ? candidate.load : 0, weight);
  };
  std::sort(order.begin(), order.end(), [&](int a, int b) { return rank(a) < rank(b); });
  return order;
}

}  // namespace conclave
