#include "moe/transport/ucx/spin_gate.h"

#include <algorithm>

namespace conclave {

absl::Duration SpinGate::Budget() {
  if (to_skip_ == 0) return spin_max_;
  --to_skip_;
  return absl::ZeroDuration();
}

void SpinGate::Spun(bool something_came, bool preempted) {
  contended_ = preempted;
  if (preempted) {
    to_skip_ = kSkippedAfterPreemption;
  } else if (something_came) {
    misses_ = 0;
  } else {
    // Two spins in vain are bad luck; from the third on the pauses double.
    ++misses_;
    if (misses_ > 2) to_skip_ = std::min(kSkippedMax, 1 << std::min(misses_ - 2, 10));
  }
}

void SpinGate::Blocked(absl::Duration waited) {
  if (contended_ || waited > spin_max_) return;
  misses_ = 0;
  to_skip_ = 0;
}

}  // namespace conclave
