// Whether a step's rows go through the layers in two parts, so that one part's attention runs while the other's rows
// are with the experts (two micro-batches, as in MegaScale-Infer, section 4.1). It hides the way to the experts, and
// costs that weights are read twice: which is more depends on the model, the machines and the number of rows, so that
// it is measured, and measured again.
#ifndef CONCLAVE_MOE_MODEL_MICRO_BATCHING_H_
#define CONCLAVE_MOE_MODEL_MICRO_BATCHING_H_

#include <array>
#include <cstdint>

#include "absl/time/time.h"

namespace conclave {

// Knows steps by the binary order of magnitude of their rows. Of each, in turn, kTrialSteps are run whole and as many
// in two parts; then the quicker way is kept for a while, and for twice as long each time it wins again, up to
// kKeptStepsMax. Used by one thread.
class MicroBatching {
 public:
  // For the next step, of so many rows. A single row is never parted.
  bool InTwoParts(int64_t rows) const;
  // How long such a step took. What went wrong is not told.
  void Observe(int64_t rows, bool in_two_parts, absl::Duration took);

  static constexpr int kTrialSteps = 4;
  static constexpr int64_t kKeptStepsMin = 128;
  static constexpr int64_t kKeptStepsMax = 8192;
  // Two parts must save so much of a step: less is noise, and not worth what they cost the shards.
  static constexpr double kGainMin = 0.08;

 private:
  struct Bucket {
    bool in_two_parts = false;  // what is kept
    int64_t kept_steps = 0;     // that are left of it; 0: a trial
    int64_t keep_next = kKeptStepsMin;
    std::array<int, 2> tried = {0, 0};       // whole, in two parts
    std::array<double, 2> seconds = {0, 0};  // a row's, the least that was seen in the trial: only delays are noise
  };
  static int BucketOf(int64_t rows);
  static bool Trial(const Bucket& bucket) { return bucket.kept_steps == 0; }
  static void Decide(Bucket& bucket);

  std::array<Bucket, 32> buckets_;
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_MODEL_MICRO_BATCHING_H_
