#include "placement_service/controller_metrics.h"

namespace conclave {
namespace {

Counter* MovesCounter(Metrics& metrics, const char* kind) {
  return metrics.AddCounter("conclave_placement_moves_total",
                            "Experts that shards were made to load, or to unload to make room.", {{"kind", kind}});
}

Gauge* ShardsGauge(Metrics& metrics, const char* state) {
  return metrics.AddGauge("conclave_placement_shards", "Shards listed, by whether they answered the last round.",
                          {{"state", state}});
}

Gauge* ImbalanceGauge(Metrics& metrics, const char* of) {
  return metrics.AddGauge("conclave_placement_imbalance_ratio",
                          "Busiest shard over the mean, by tokens, mean over layers: as measured, as possible with "
                          "what is held, and after all that is planned.",
                          {{"of", of}});
}

}  // namespace

ControllerMetrics::ControllerMetrics(Metrics* metrics) : metrics_(metrics) {
  if (metrics == nullptr) return;
  loads_ = MovesCounter(*metrics, "load");
  unloads_ = MovesCounter(*metrics, "unload");
  bytes_ = metrics->AddCounter("conclave_placement_moved_bytes_total", "Stored bytes of the experts loaded.", {});
  answering_ = ShardsGauge(*metrics, "answering");
  silent_ = ShardsGauge(*metrics, "silent");
  orphans_ = metrics->AddGauge("conclave_placement_experts_without_holder",
                               "Experts, over all layers, that no answering shard held at the last round.", {});
  left_ = metrics->AddGauge("conclave_placement_moves_waiting", "Experts that later rounds are to move.", {});
  last_round_ = metrics->AddGauge("conclave_placement_last_round_timestamp_seconds",
                                  "When the last round ended, in seconds since 1970, whatever became of it.", {});
  measured_ = ImbalanceGauge(*metrics, "measured");
  possible_ = ImbalanceGauge(*metrics, "possible");
  planned_ = ImbalanceGauge(*metrics, "planned");
  seconds_ = metrics->AddHistogram("conclave_placement_round_seconds", "Time that rounds took.", {}, LatencyBuckets());
}

void ControllerMetrics::ShowPool(const Pool& pool, int silent) {
  if (metrics_ == nullptr) return;
  answering_->Set(static_cast<double>(pool.shards.size()));
  silent_->Set(silent);
  orphans_->Set(pool.orphans);
}

void ControllerMetrics::ShowPlan(const PoolPlan& plan) {
  if (metrics_ == nullptr) return;
  measured_->Set(plan.measured);
  possible_->Set(plan.possible);
  planned_->Set(plan.planned);
  left_->Set(plan.moves_left);
}

void ControllerMetrics::CountLoads(int experts, int64_t bytes) {
  if (metrics_ == nullptr) return;
  loads_->Add(experts);
  bytes_->Add(static_cast<double>(bytes));
}

void ControllerMetrics::CountUnloads(int experts) {
  if (metrics_ != nullptr) unloads_->Add(experts);
}

void ControllerMetrics::EndRound(absl::string_view outcome, absl::Time now, absl::Duration took) {
  if (metrics_ == nullptr) return;
  metrics_
      ->AddCounter("conclave_placement_rounds_total", "Rounds of the controller, by what became of them.",
                   {{"outcome", std::string(outcome)}})
      ->Add(1);
  seconds_->Observe(absl::ToDoubleSeconds(took));
  last_round_->Set(absl::ToDoubleSeconds(now - absl::UnixEpoch()));
}

}  // namespace conclave
