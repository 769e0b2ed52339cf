// What a router knows of its shards from how their calls ended: whom to avoid for a while, and the figures that
// operators see.
#ifndef CONCLAVE_ROUTER_SERVICE_SHARD_HEALTH_H_
#define CONCLAVE_ROUTER_SERVICE_SHARD_HEALTH_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "moe/base/ids.h"
#include "moe/metrics/metrics.h"

namespace conclave {

// One shard's figures since start.
struct ShardFigures {
  std::string name;
  bool healthy = true;  // its last call was answered
  uint64_t calls = 0;
  uint64_t failures = 0;
  uint64_t rows = 0;                                     // answered; a row counts once for each call it went with
  absl::Duration latency_recent = absl::ZeroDuration();  // of answered calls, a moving average
};

// Record and Avoided belong to the engine's thread; Figures to any.
class ShardHealth {
 public:
  // A shard that failed is avoided for this long where another holder exists, and then tried again.
  static constexpr absl::Duration kAvoidTime = absl::Seconds(1);

  // names[i] is ShardId{i}'s, as the label `shard` of its series. `metrics` null: none.
  ShardHealth(const std::vector<std::string>& names, Metrics* metrics);

  // A call of `rows` rows ended after `latency`.
  void Record(ShardId shard, int64_t rows, absl::Duration latency, const absl::Status& status, absl::Time now);
  bool Avoided(ShardId shard, absl::Time now) const { return now < shards_[Value(shard)]->avoid_until; }
  std::vector<ShardFigures> Figures() const;

 private:
  struct Shard {
    std::string name;
    absl::Time avoid_until = absl::InfinitePast();
    std::atomic<bool> healthy{true};
    std::atomic<uint64_t> calls{0}, failures{0}, rows{0};
    std::atomic<int64_t> latency_recent_ns{0};
    Histogram* latency_seconds = nullptr;
    Counter* rows_total = nullptr;
    Counter* failures_total = nullptr;
  };
  std::vector<std::unique_ptr<Shard>> shards_;
};

}  // namespace conclave

#endif  // CONCLAVE_ROUTER_SERVICE_SHARD_HEALTH_H_
