// What the step loop tells Prometheus. docs/metrics.md lists the names.
#ifndef CONCLAVE_ROUTER_SERVICE_ENGINE_METRICS_H_
#define CONCLAVE_ROUTER_SERVICE_ENGINE_METRICS_H_

#include <cstdint>

#include "absl/time/time.h"
#include "moe/metrics/metrics.h"
#include "router_service/batch.h"

namespace conclave {

// Used by the engine's thread. The handles live as long as the Metrics.
class EngineMetrics {
 public:
  // `metrics` may be null: then nothing is told.
  explicit EngineMetrics(Metrics* metrics);

  // A sequence has left the queue, for the first time.
  void Admitted(const Admission& admission, absl::Duration queued);
  // Its first token has come, so long after that.
  void FirstToken(absl::Duration prefill);
  // A hidden state or logit of a sequence is not a finite number; it fails.
  void NotFinite();
  // A step is over. preemptions: since start.
  void StepDone(const Batch& batch, bool in_two_parts, absl::Duration took, int64_t preemptions);

 private:
  const bool on_;
  Histogram* queue_seconds_ = nullptr;
  Histogram* prefill_seconds_ = nullptr;
  Histogram* step_seconds_ = nullptr;
  Histogram* step_rows_ = nullptr;
  Counter* two_part_steps_ = nullptr;
  Counter* decode_rows_ = nullptr;
  Counter* prefill_rows_ = nullptr;
  Counter* prompt_tokens_ = nullptr;
  Counter* prefix_hit_tokens_ = nullptr;
  Counter* preemptions_ = nullptr;
  Counter* not_finite_ = nullptr;
  int64_t preemptions_shown_ = 0;
};

}  // namespace conclave

#endif  // CONCLAVE_ROUTER_SERVICE_ENGINE_METRICS_H_
