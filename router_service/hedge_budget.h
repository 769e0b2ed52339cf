// How many rows may be sent twice on suspicion: a share of those sent anyway, so that hedging cannot make an overload
// worse.
#ifndef CONCLAVE_ROUTER_SERVICE_HEDGE_BUDGET_H_
#define CONCLAVE_ROUTER_SERVICE_HEDGE_BUDGET_H_

#include <algorithm>
#include <cstdint>

namespace conclave {

// A bucket that starts empty and never holds more than `burst`, so that hedged <= share * sent at every moment.
// Used by one thread.
class HedgeBudget {
 public:
  // share in [0, 1]; burst in pairs.
  explicit HedgeBudget(double share, double burst = 4096) : share_(share), burst_(burst) {}
  void OnSent(int64_t pairs) { tokens_ = std::min(burst_, tokens_ + share_ * static_cast<double>(pairs)); }
  // True: `pairs` pairs may be sent once more, and are paid for.
  bool Take(int64_t pairs) {
    if (tokens_ < static_cast<double>(pairs)) return false;
    tokens_ -= static_cast<double>(pairs);
    return true;
  }
  // Pairs that were paid for and could not be sent.
  void GiveBack(int64_t pairs) { tokens_ = std::min(burst_, tokens_ + static_cast<double>(pairs)); }

 private:
  const double share_, burst_;
  double tokens_ = 0;
};

}  // namespace conclave

#endif  // CONCLAVE_ROUTER_SERVICE_HEDGE_BUDGET_H_
