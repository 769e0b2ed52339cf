#include "router_service/prefill_pacer.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "moe/base/check.h"

namespace conclave {
namespace {

// Fewer rows are not worth a step's fixed cost.
constexpr double kRowsMin = 4;
constexpr double kRowsAtFirst = 16;
// Nobody reads faster than this: steps that stay below it need no care.
constexpr double kUnnoticedSeconds = 0.004;
// One observation moves the allowance by no more than this factor.
constexpr double kFactorMax = 2;
// One observation moves a baseline by this share of the difference. A step may be held up by something else, but none
// is ever faster than it can be.
constexpr double kBaselineShareUp = 0.1, kBaselineShareDown = 0.5;

}  // namespace

PrefillPacer::PrefillPacer(double stretch_max, int rows_max)
    : stretch_max_(stretch_max), rows_max_(rows_max), rows_(std::min<double>(kRowsAtFirst, rows_max)) {
  CONCLAVE_CHECK(rows_max >= 1 && (stretch_max == 0 || stretch_max > 1)) << stretch_max << ", " << rows_max;
}

int PrefillPacer::BucketOf(int decode_rows) { return std::bit_width(static_cast<unsigned>(decode_rows - 1)); }

double PrefillPacer::AllowedSeconds(const Baseline& baseline) const {
  return std::max(stretch_max_ * baseline.seconds, kUnnoticedSeconds) - baseline.seconds;
}

int PrefillPacer::Rows(int decode_rows) const {
  if (stretch_max_ == 0 || decode_rows == 0) return static_cast<int>(rows_max_);
  const Baseline& baseline = baselines_[BucketOf(decode_rows)];
  if (baseline.seconds == 0 || baseline.mixed_steps >= kProbeSteps) return 0;
  double rows = rows_;
  // Before any mixed step: half of what steps without decodes would promise, for a row alone costs more than in a
  // crowd.
  if (!mixed_seen_ && row_seconds_ > 0) rows = AllowedSeconds(baseline) / row_seconds_ / 2;
  return static_cast<int>(std::clamp(rows, std::min(kRowsMin, rows_max_), rows_max_));
}

void PrefillPacer::Observe(int decode_rows, int prefill_rows, absl::Duration took) {
  constexpr double kSecondsMin = 1e-7;  // a clock that stands still
  const double seconds = std::max(absl::ToDoubleSeconds(took), kSecondsMin);
  if (decode_rows == 0) {
    if (prefill_rows > 0) row_seconds_ = seconds / prefill_rows;
    return;
  }
  Baseline& baseline = baselines_[BucketOf(decode_rows)];
  if (prefill_rows == 0) {
    baseline.mixed_steps = 0;
    if (baseline.seconds == 0) baseline.seconds = seconds;
    const double difference = std::min(seconds, 2 * baseline.seconds) - baseline.seconds;
    baseline.seconds += difference * (difference > 0 ? kBaselineShareUp : kBaselineShareDown);
    return;
  }
  ++baseline.mixed_steps;
  if (baseline.seconds == 0) return;
  const double added = std::max(seconds - baseline.seconds, kSecondsMin);
  const double factor = std::clamp(AllowedSeconds(baseline) / added, 1 / kFactorMax, kFactorMax);
  const double wanted = prefill_rows * factor;
  // A step that was given fewer rows than allowed says nothing against the allowance, unless even those took too long.
  if (factor > 1 && wanted < rows_) return;
  mixed_seen_ = true;
  rows_ = std::clamp(wanted, std::min(kRowsMin, rows_max_), rows_max_);
}

}  // namespace conclave
