#include "router_service/call_latency.h"

#include <algorithm>
#include <cmath>

namespace conclave {
namespace {

// Fewer answers than this say little about how slow a shard is.
constexpr int64_t kSamplesMin = 16;

}  // namespace

int CallLatency::ClassOf(int64_t pairs) {
  int log2 = 0;
  while (pairs > 1) pairs >>= 1, ++log2;
  return std::min(log2, kClasses - 1);
}

void CallLatency::Record(ShardId shard, int64_t pairs, absl::Duration latency) {
  Estimate& estimate = classes_[Value(shard)][ClassOf(pairs)];
  const double ns = std::max(absl::ToDoubleNanoseconds(latency), 1.0);
  if (estimate.samples++ == 0) {
    estimate.mean_ns = ns;
    estimate.deviation_ns = ns / 2;
    estimate.log_mean = std::log(ns);
    return;
  }
  estimate.deviation_ns += (std::fabs(ns - estimate.mean_ns) - estimate.deviation_ns) / 4;
  estimate.mean_ns += (ns - estimate.mean_ns) / 8;
  estimate.log_mean += (std::log(ns) - estimate.log_mean) / 16;
}

std::optional<double> CallLatency::HighMarkOf(const Shard& shard, int of_class) {
  if (shard[of_class].samples > 0) return shard[of_class].high_mark_ns();
  for (int distance = 1; distance < kClasses; ++distance) {
    const int below = of_class - distance, above = of_class + distance;
    if (below >= 0 && shard[below].samples > 0) return std::ldexp(shard[below].high_mark_ns(), distance);
    if (above < kClasses && shard[above].samples > 0) return shard[above].high_mark_ns();
  }
  return std::nullopt;
}

std::optional<absl::Duration> CallLatency::HighMark(ShardId shard, int64_t pairs) const {
  const int of_class = ClassOf(pairs);
  std::optional<double> mark = HighMarkOf(classes_[Value(shard)], of_class);
  if (!mark.has_value()) {
    for (const Shard& other : classes_) {
      const std::optional<double> theirs = HighMarkOf(other, of_class);
      if (theirs.has_value()) mark = std::max(mark.value_or(0), *theirs);
    }
  }
  if (!mark.has_value()) return std::nullopt;
  return absl::Nanoseconds(*mark);
}

double CallLatency::Slowness(ShardId shard, int64_t pairs, absl::Duration at_least) const {
  const int of_class = ClassOf(pairs);
  const Estimate& own = classes_[Value(shard)][of_class];
  if (own.samples < kSamplesMin || own.log_mean < std::log(absl::ToDoubleNanoseconds(at_least))) return 1;
  std::vector<double> others;
  for (size_t i = 0; i < classes_.size(); ++i) {
    const Estimate& estimate = classes_[i][of_class];
    if (static_cast<int>(i) != Value(shard) && estimate.samples >= kSamplesMin) others.push_back(estimate.log_mean);
  }
  if (others.empty()) return 1;
  const auto median = others.begin() + (others.size() - 1) / 2;
  std::nth_element(others.begin(), median, others.end());
  return std::exp(own.log_mean - *median);
}

}  // namespace conclave
