#include "moe/model/micro_batching.h"

#include <algorithm>
#include <bit>

namespace conclave {

int MicroBatching::BucketOf(int64_t rows) { return std::min<int>(std::bit_width(static_cast<uint64_t>(rows - 1)), 31); }

bool MicroBatching::InTwoParts(int64_t rows) const {
  if (rows < 2) return false;
  const Bucket& bucket = buckets_[BucketOf(rows)];
  return Trial(bucket) ? bucket.tried[1] < bucket.tried[0] : bucket.in_two_parts;
}

void MicroBatching::Observe(int64_t rows, bool in_two_parts, absl::Duration took) {
  if (rows < 2) return;
  Bucket& bucket = buckets_[BucketOf(rows)];
  if (!Trial(bucket)) {
    --bucket.kept_steps;
    return;
  }
  const double seconds = absl::ToDoubleSeconds(took) / static_cast<double>(rows);
  double& least = bucket.seconds[in_two_parts];
  least = bucket.tried[in_two_parts]++ == 0 ? seconds : std::min(least, seconds);
  if (bucket.tried[0] >= kTrialSteps && bucket.tried[1] >= kTrialSteps) Decide(bucket);
}

void MicroBatching::Decide(Bucket& bucket) {
  const bool in_two_parts = bucket.seconds[1] < (1 - kGainMin) * bucket.seconds[0];
  const bool again = in_two_parts == bucket.in_two_parts;
  bucket.keep_next = again ? std::min(2 * bucket.keep_next, kKeptStepsMax) : kKeptStepsMin;
  bucket.in_two_parts = in_two_parts;
  bucket.kept_steps = bucket.keep_next;
  bucket.tried = {0, 0};
}

}  // namespace conclave
