// What a router makes of how its calls ended: shards that stand out are avoided for a while (in the manner of Envoy's
// outlier detection), and operators see the figures.
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
#include "router_service/call_latency.h"

namespace conclave {

// When a shard is ejected, and for how long.
struct OutlierOptions {
  int failures_max = 3;   // in a row: damaged, refused, or answered too late beside a hedge
  int late_max = 1;       // in a row: not answered within the deadline
  double slowness_max = 4;  // times the median of the others
  absl::Duration slow_min = absl::Milliseconds(1);        // calls that take less are never slow
  absl::Duration ejection_base = absl::Seconds(1);        // the first time; n times as long the n-th time
  absl::Duration ejection_max = absl::Seconds(30);
  absl::Duration forgiven_after = absl::Seconds(60);      // without an ejection, the count starts anew
  double ejected_share_max = 0.5;  // of all shards, but one always: when most look bad, it is us
};

// One shard's figures since start.
struct ShardFigures {
  std::string name;
  bool reachable = true;
  bool avoided = false;  // ejected, for the moment
  bool healthy() const { return reachable && !avoided; }
  uint64_t calls = 0;
  uint64_t failures = 0;
  uint64_t rows = 0;                                     // answered; a row counts once for each call it went with
  absl::Duration latency_recent = absl::ZeroDuration();  // of answered calls, a moving average
  uint64_t ejections = 0;
};

// Figures is for any thread, all else for the engine's.
class ShardHealth {
 public:
  // names[i] is ShardId{i}'s, as the label `shard` of its series. `metrics` null: none.
  ShardHealth(const std::vector<std::string>& names, const OutlierOptions& options, Metrics* metrics);

  // A call of `rows` rows and `pairs` pairs was answered after `latency`.
  void RecordAnswer(ShardId shard, int64_t rows, int64_t pairs, absl::Duration latency, absl::Time now);
  // A call ended with an error, other than that the shard is gone: SetReachable tells that.
  void RecordFailure(ShardId shard, const absl::Status& status, absl::Time now);
  // A call was taken back, because another shard was faster.
  void RecordOutpaced(ShardId shard, absl::Time now);
  void SetReachable(ShardId shard, bool reachable);

  // Whether the shard is to be avoided where another holder exists.
  bool Ejected(ShardId shard, absl::Time now) const { return shards_[Value(shard)]->Ejected(now); }
  const CallLatency& latency() const { return latency_; }
  std::vector<ShardFigures> Figures(absl::Time now) const;

 private:
  struct Shard {
    std::string name;
    absl::Time last_ejected = absl::InfinitePast();
    int ejections_recent = 0, failures_in_row = 0, late_in_row = 0;
    std::atomic<bool> reachable{true};
    std::atomic<int64_t> ejected_until_ns{INT64_MIN};  // since the epoch
    std::atomic<uint64_t> calls{0}, failures{0}, rows{0}, ejections{0};
    std::atomic<int64_t> latency_recent_ns{0};
    Histogram* latency_seconds = nullptr;
    Counter* rows_total = nullptr;
    Counter* failures_total = nullptr;
    Counter* ejections_total = nullptr;
    Gauge* up = nullptr;
    bool Ejected(absl::Time now) const {
      return absl::ToUnixNanos(now) < ejected_until_ns.load(std::memory_order_relaxed);
    }
  };
  void Eject(ShardId shard, absl::string_view why, absl::Time now);
  bool MayEject(absl::Time now) const;

  const OutlierOptions options_;
  CallLatency latency_;
  std::vector<std::unique_ptr<Shard>> shards_;
};

// Shows no more whether a shard is up and what its epoch is: it does not belong to the pool any more.
void ForgetShardGauges(const std::string& shard, Metrics& metrics);

}  // namespace conclave

#endif  // CONCLAVE_ROUTER_SERVICE_SHARD_HEALTH_H_
