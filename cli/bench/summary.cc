#include "cli/bench/summary.h"

#include <algorithm>
#include <numeric>

#include "moe/base/quantile.h"

namespace conclave {

Summary Summarize(std::vector<double> samples) {
  Summary summary;
  if (samples.empty()) return summary;
  std::sort(samples.begin(), samples.end());
  summary.count = static_cast<int64_t>(samples.size());
  summary.mean = std::accumulate(samples.begin(), samples.end(), 0.0) / static_cast<double>(samples.size());
  summary.p50 = Quantile(samples, 0.5);
  summary.p90 = Quantile(samples, 0.9);
  summary.p99 = Quantile(samples, 0.99);
  summary.max = samples.back();
  return summary;
}

}  // namespace conclave
