// What a shard counts: calls by outcome, rows, time, and the tokens of every expert it holds.
#ifndef CONCLAVE_EXPERT_SERVICE_SHARD_METRICS_H_
#define CONCLAVE_EXPERT_SERVICE_SHARD_METRICS_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "expert_service/expert_store.h"
#include "moe/checkpoint/model_spec.h"
#include "moe/metrics/metrics.h"
#include "moe/transport/transport.h"

namespace conclave {

// Thread-safe, but for CountRun and SetHeld, each of which is alone with both. Tokens are counted in plain memory and
// shown at a scrape; series are bounded by what the shard holds: one a layer, and where asked one per (layer, expert).
class ShardMetrics {
 public:
  // `metrics` null: nothing is counted but tokens.
  ShardMetrics(Metrics* metrics, const ExpertStore& store, const ModelSpec& spec, bool per_expert);
  // The shard holds what `store` holds now.
  void SetHeld(const ExpertStore& store);
  // A call that was run in `compute` after waiting for its turn for `queued`.
  void CountRun(const ExpertCall& call, absl::Duration queued, absl::Duration compute);
  // How a call ended, run or refused.
  void CountEnd(absl::StatusCode code);
  // Tokens of each expert of the layer since the start, [experts].
  std::vector<uint64_t> Tokens(LayerId layer) const;

 private:
  // A count and the series that shows it.
  struct Shown {
    Counter* counter = nullptr;
    uint64_t count = 0;  // what it shows
  };
  void Refresh();

  Metrics* const metrics_;
  const size_t experts_per_layer_;
  const bool per_expert_;
  Counter* rows_ = nullptr;
  Histogram* queue_seconds_ = nullptr;
  Histogram* compute_seconds_ = nullptr;
  Gauge* held_ = nullptr;
  Gauge* held_bytes_ = nullptr;
  std::vector<Counter*> ended_;                // by status code
  std::vector<std::atomic<uint64_t>> tokens_;  // [layers * experts]
  std::mutex mutex_;
  std::vector<Shown> experts_;         // [layers * experts], guarded by mutex_; null where not held or not asked for
  std::vector<Shown> layers_;          // [layers], guarded by mutex_; null where none is held
  std::unique_ptr<RefreshHook> hook_;  // last: it uses the others
};

// The progress of loading as gauges, as long as `metrics` lives.
ExpertStore::Progress LoadGauge(Metrics& metrics);

}  // namespace conclave

#endif  // CONCLAVE_EXPERT_SERVICE_SHARD_METRICS_H_
