// What a shard counts: calls by outcome, rows, time, and the tokens of every expert it holds.
#ifndef CONCLAVE_EXPERT_SERVICE_SHARD_METRICS_H_
#define CONCLAVE_EXPERT_SERVICE_SHARD_METRICS_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "expert_service/expert_store.h"
#include "moe/metrics/metrics.h"
#include "moe/transport/transport.h"

namespace conclave {

// Thread-safe. Series are bounded by what the shard holds: one per (layer, expert).
class ShardMetrics {
 public:
  // `metrics` null: nothing is counted. `experts_per_layer`: the model's.
  ShardMetrics(Metrics* metrics, const ExpertStore& store, int experts_per_layer);
  // The shard holds what `store` holds now. Alone with itself and with CountRun.
  void SetHeld(const ExpertStore& store);
  // A call that was run in `compute` after waiting for its turn for `queued`.
  void CountRun(const ExpertCall& call, absl::Duration queued, absl::Duration compute);
  // How a call ended, run or refused.
  void CountEnd(absl::StatusCode code);

 private:
  Metrics* const metrics_;
  const int experts_per_layer_;
  Counter* rows_ = nullptr;
  Histogram* queue_seconds_ = nullptr;
  Histogram* compute_seconds_ = nullptr;
  Gauge* held_ = nullptr;
  Gauge* held_bytes_ = nullptr;
  std::vector<Counter*> ended_;   // by status code
  std::vector<Counter*> tokens_;  // [layers * experts]; null where not held
};

// The progress of loading as a gauge, as long as `metrics` lives.
ExpertStore::Progress LoadGauge(Metrics& metrics);

}  // namespace conclave

#endif  // CONCLAVE_EXPERT_SERVICE_SHARD_METRICS_H_
