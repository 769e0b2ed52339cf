#include "moe/placement/load_split.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "moe/base/check.h"

namespace conclave {
namespace {

constexpr int kSweepsMax = 64;
constexpr double kSettled = 1e-5;  // of the mean load: a sweep that moves less was the last one

// An expert with more than one holder.
struct Shared {
  double tokens = 0;
  const std::vector<int32_t>* holders = nullptr;
  std::vector<double> shares;  // [holders], of tokens
};

// Gives the expert's tokens to its emptiest holders so that these end up level. Returns how many changed places.
double Refill(Shared& expert, std::vector<double>& loads) {
  const std::vector<int32_t>& holders = *expert.holders;
  std::vector<double> floors(holders.size());
  for (size_t i = 0; i < holders.size(); ++i) floors[i] = loads[holders[i]] - expert.shares[i];
  std::vector<double> ascending = floors;
  std::sort(ascending.begin(), ascending.end());
  double level = 0, sum = 0;
  for (size_t n = 1; n <= ascending.size(); ++n) {
    sum += ascending[n - 1];
    level = (expert.tokens + sum) / static_cast<double>(n);
    if (n == ascending.size() || level <= ascending[n]) break;
  }
  double moved = 0;
  for (size_t i = 0; i < holders.size(); ++i) {
    const double share = std::max(0.0, level - floors[i]);
    moved += std::abs(share - expert.shares[i]);
    loads[holders[i]] = floors[i] + share;
    expert.shares[i] = share;
  }
  return moved;
}

}  // namespace

std::vector<double> SplitEvenly(absl::Span<const double> tokens, const ExpertHolders& holders, int shards) {
  CONCLAVE_CHECK(tokens.size() == holders.size()) << tokens.size() << " experts, holders of " << holders.size();
  std::vector<double> loads(static_cast<size_t>(shards));
  std::vector<Shared> shared;
  double total = 0;
  for (size_t expert = 0; expert < holders.size(); ++expert) {
    const size_t copies = holders[expert].size();
    if (copies == 0 || tokens[expert] <= 0) continue;
    total += tokens[expert];
    const double share = tokens[expert] / static_cast<double>(copies);
    for (const int32_t shard : holders[expert]) loads[static_cast<size_t>(shard)] += share;
    if (copies > 1) shared.push_back({tokens[expert], &holders[expert], std::vector<double>(copies, share)});
  }
  const double settled = kSettled * total / std::max(1, shards);
  for (int sweep = 0; sweep < kSweepsMax; ++sweep) {
    double moved = 0;
    for (Shared& expert : shared) moved += Refill(expert, loads);
    if (moved <= settled) break;
  }
  return loads;
}

double MaxOverMean(absl::Span<const double> loads) {
  const double sum = std::accumulate(loads.begin(), loads.end(), 0.0);
  if (sum <= 0) return 1;
  return *std::max_element(loads.begin(), loads.end()) * static_cast<double>(loads.size()) / sum;
}

}  // namespace conclave
