// Decides how many rows of prefill a step may take beside decoding sequences, so that those do not feel it: a step with
// prefill should take at most so many times as long as one without. It learns from the steps themselves, for what a row
// costs depends on the model, the machine, the experts that it wakes and the length of its context.
#ifndef CONCLAVE_ROUTER_SERVICE_PREFILL_PACER_H_
#define CONCLAVE_ROUTER_SERVICE_PREFILL_PACER_H_

#include <array>
#include <cstdint>

#include "absl/time/time.h"

namespace conclave {

// Used by one thread.
class PrefillPacer {
 public:
  // stretch_max: above 1, or 0 for no limit. rows_max: the most rows that a step may have; >= 1.
  PrefillPacer(double stretch_max, int rows_max);

  // Rows of prefill for the next step beside `decode_rows` decoding sequences. 0 where it has to be learnt first, or
  // again, how long such a step takes without any: then at most one step in kProbeSteps goes by.
  int Rows(int decode_rows) const;
  // How long a step took, from its plan to its last token.
  void Observe(int decode_rows, int prefill_rows, absl::Duration took);

  // Steps with prefill after which the time without it is looked at again.
  static constexpr int kProbeSteps = 64;

 private:
  // Steps that only decode, by the binary order of magnitude of their rows.
  struct Baseline {
    double seconds = 0;       // 0: unknown
    int64_t mixed_steps = 0;  // with prefill, since it was seen last
  };
  static int BucketOf(int decode_rows);
  // What prefill may add to a step.
  double AllowedSeconds(const Baseline& baseline) const;

  const double stretch_max_;
  const double rows_max_;
  double rows_;  // the allowance that the last mixed steps led to
  bool mixed_seen_ = false;
  double row_seconds_ = 0;  // of steps without decodes; 0: unknown
  std::array<Baseline, 32> baselines_;
};

}  // namespace conclave

#endif  // CONCLAVE_ROUTER_SERVICE_PREFILL_PACER_H_
