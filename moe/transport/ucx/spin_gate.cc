#include "moe/transport/ucx/spin_gate.h"

#include <algorithm>

namespace conclave {

absl::Duration SpinGate::Budget() {
  if (to_skip_ == 0) return budget_;
  --to_skip_;
  return absl::ZeroDuration();
}

void SpinGate::Spun(bool something_came, bool preempted, bool briefly) {
  brief_ = preempted && briefly ? std::min(brief_ + 1, kBriefMax) : 0;
  if (brief_ > 0 && brief_ < kBriefMax) preempted = false;
  contended_ = preempted;
  budget_ = spin_max_;
  // One preemption may be chance; a core that is taken away again and again is left alone for longer and longer.
  preemptions_ = preempted ? std::min(preemptions_ + 1, 10) : 0;
  if (preempted) {
    to_skip_ = std::min(kSkippedMax, kSkippedAfterPreemption << (preemptions_ - 1));
  } else if (something_came) {
    misses_ = 0;
  } else {
    // Two spins in vain are bad luck; from the third on the pauses double.
    ++misses_;
    if (misses_ > 2) to_skip_ = std::min(kSkippedMax, 1 << std::min(misses_ - 2, 10));
  }
}

void SpinGate::Blocked(absl::Duration waited) {
  if (contended_ || waited > longest()) return;
  if (brief_ == 0) budget_ = std::min(std::max(spin_max_, waited * 2), longest());
  misses_ = 0;
  to_skip_ = 0;
}

}  // namespace conclave
