// What has been added to counters of late, by looking at them now and then.
#ifndef CONCLAVE_ROUTER_SERVICE_TOKEN_WINDOW_H_
#define CONCLAVE_ROUTER_SERVICE_TOKEN_WINDOW_H_

#include <cstdint>
#include <vector>

#include "absl/time/time.h"
#include "moe/base/clock.h"

namespace conclave {

// Covers the last 30 to 60 seconds, as long as Update is called at least as often; else the time since the last but one
// call. Used by one thread at a time.
class TokenWindow {
 public:
  static constexpr absl::Duration kHalf = absl::Seconds(30);

  explicit TokenWindow(Clock* clock = Clock::Real()) : clock_(clock) {}

  // totals: counters that never fall, of one shape at every call. Returns what was added within the window.
  std::vector<std::vector<uint64_t>> Update(const std::vector<std::vector<uint64_t>>& totals);

 private:
  Clock* const clock_;
  absl::Time next_at_ = absl::InfinitePast();         // never: no call yet
  std::vector<std::vector<uint64_t>> base_, next_;  // where the window begins, and where the one after it will
};

}  // namespace conclave

#endif  // CONCLAVE_ROUTER_SERVICE_TOKEN_WINDOW_H_
