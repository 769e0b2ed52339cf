// Whether a thread that waits for a message should spin for it first, learnt from how its last waits went.
#ifndef CONCLAVE_MOE_TRANSPORT_UCX_SPIN_GATE_H_
#define CONCLAVE_MOE_TRANSPORT_UCX_SPIN_GATE_H_

#include "absl/time/time.h"

namespace conclave {

// A spin that sees its message saves two context switches, about 30 µs; one that does not has burnt a core that
// somebody may have wanted. So: spin while that succeeds, less and less often while it does not, and not at all for a
// while after the kernel has taken the core away, which means that others compete for it. Two ends that both block
// make each other wait for a wake-up, which may take longer than a spin (idle virtual cores): the next spin is then as
// long as that, so that they find together again. Used by one thread.
class SpinGate {
 public:
  explicit SpinGate(absl::Duration spin_max) : spin_max_(spin_max) {}

  // What takes longer than this is no matter for spins.
  absl::Duration longest() const { return kStretchMax * spin_max_; }
  // How long to spin in the wait that begins; zero: block at once.
  absl::Duration Budget();
  // How the spin went: whether something came, whether the kernel ran somebody else on this core meanwhile, and whether
  // only for a moment, as it does with a peer that it wakes here. That counts where it happens again and again: on idle
  // cores the kernel soon puts the two apart.
  void Spun(bool something_came, bool preempted, bool briefly = false);
  // How long a wait without a spin, or after one in vain, took in all. Where that was not long, a spin would have paid.
  void Blocked(absl::Duration waited);

 private:
  static constexpr int kStretchMax = 3;  // times spin_max: the longest wait that a spin is made for
  static constexpr int kSkippedMax = 256;
  static constexpr int kSkippedAfterPreemption = 4;
  static constexpr int kBriefMax = 64;

  const absl::Duration spin_max_;
  absl::Duration budget_ = spin_max_;  // of the next spin
  int misses_ = 0;       // spins in vain, in a row
  int preemptions_ = 0;  // spins that lost the core, in a row
  int brief_ = 0;        // those that lost it for a moment, in a row
  int to_skip_ = 0;      // waits that do not spin, before the next that does
  bool contended_ = false;
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_TRANSPORT_UCX_SPIN_GATE_H_
