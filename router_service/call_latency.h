// How long calls take, by shard and size, as a running mean and deviation: from it come the deadline of the next call
// and the moment at which a second holder is asked.
#ifndef CONCLAVE_ROUTER_SERVICE_CALL_LATENCY_H_
#define CONCLAVE_ROUTER_SERVICE_CALL_LATENCY_H_

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include "absl/time/time.h"
#include "moe/base/ids.h"

namespace conclave {

// Used by one thread. Means and deviations as in TCP's retransmission timer (Jacobson, 1988: gains 1/8 and 1/4), one
// pair for each shard and power of two of the call's (row, expert) pairs.
class CallLatency {
 public:
  explicit CallLatency(int shards) : classes_(shards) {}

  // A call of `pairs` pairs was answered after `latency`.
  void Record(ShardId shard, int64_t pairs, absl::Duration latency);
  // Mean plus four deviations: hardly any call takes longer. Where this shard has run no call of that size, the next
  // smaller or larger size that it has run, in proportion; else what the slowest of the others says; else nothing.
  std::optional<absl::Duration> HighMark(ShardId shard, int64_t pairs) const;
  // How many times slower the shard's calls are than the median of the others, in the size of `pairs`, by geometric
  // means; 1 where too little is known, or where calls take less than `at_least`.
  double Slowness(ShardId shard, int64_t pairs, absl::Duration at_least) const;
  // Forgets a shard that has come back: it may be another machine.
  void Forget(ShardId shard) { classes_[Value(shard)] = {}; }

 private:
  static constexpr int kClasses = 20;
  struct Estimate {
    int64_t samples = 0;
    double mean_ns = 0, deviation_ns = 0;
    double log_mean = 0;  // of the logarithm, gain 1/16: one hiccup hardly moves it
    double high_mark_ns() const { return mean_ns + 4 * deviation_ns; }
  };
  using Shard = std::array<Estimate, kClasses>;
  static int ClassOf(int64_t pairs);
  static std::optional<double> HighMarkOf(const Shard& shard, int of_class);

  std::vector<Shard> classes_;
};

}  // namespace conclave

#endif  // CONCLAVE_ROUTER_SERVICE_CALL_LATENCY_H_
