// How long a call will take, learnt from how long earlier ones took.
#ifndef CONCLAVE_MOE_TRANSPORT_UCX_REPLY_FORECAST_H_
#define CONCLAVE_MOE_TRANSPORT_UCX_REPLY_FORECAST_H_

#include <cstdint>

#include "absl/time/time.h"

namespace conclave {

// Whoever spins for a reply while the shard still computes burns a core that the shard may need: on a machine with few
// cores the two are often on the same one. So this says how long a call takes at least. It errs on the short side: a
// spin too many costs some microseconds, and one too few a wake-up on every call. Used by one thread, for one shard.
class ReplyForecast {
 public:
  // A call of `pairs` was answered. REQUIRES: pairs >= 1
  void Took(int64_t pairs, absl::Duration time);
  // Zero: nothing is known yet.
  absl::Duration AtLeast(int64_t pairs) const { return per_pair_ * pairs; }

 private:
  absl::Duration per_pair_;  // hardly any call takes less
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_TRANSPORT_UCX_REPLY_FORECAST_H_
