#include "moe/base/quantile.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <utility>

namespace conclave {

double Quantile(const std::vector<double>& sorted, double q) {
  const double place = q * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<size_t>(std::floor(place));
  const size_t above = std::min(below + 1, sorted.size() - 1);
  return sorted[below] + (sorted[above] - sorted[below]) * (place - static_cast<double>(below));
}

double QuantileOf(std::vector<double> samples, double q) {
  if (samples.empty()) return 0;
  std::sort(samples.begin(), samples.end());
  return Quantile(samples, q);
}

double MedianOf(std::vector<double> samples) { return QuantileOf(std::move(samples), 0.5); }

}  // namespace conclave
