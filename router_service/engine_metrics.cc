#include "router_service/engine_metrics.h"

#include <vector>

namespace conclave {
namespace {

// 1 to 4096 rows, by powers of two.
std::vector<double> RowBuckets() {
  std::vector<double> bounds;
  for (double rows = 1; rows <= 4096; rows *= 2) bounds.push_back(rows);
  return bounds;
}

}  // namespace

EngineMetrics::EngineMetrics(Metrics* metrics) : on_(metrics != nullptr) {
  if (!on_) return;
  queue_seconds_ = metrics->AddHistogram("conclave_router_queue_seconds",
                                         "Time from the arrival of a sequence to its place.", {}, LatencyBuckets());
  prefill_seconds_ = metrics->AddHistogram("conclave_router_prefill_seconds",
                                           "Time from a sequence's place to its first token.", {}, LatencyBuckets());
  step_seconds_ = metrics->AddHistogram("conclave_router_step_seconds", "Time of one step over all sequences.", {},
                                        LatencyBuckets());
  step_rows_ = metrics->AddHistogram("conclave_router_step_rows", "Rows of one step.", {}, RowBuckets());
  two_part_steps_ = metrics->AddCounter(
      "conclave_router_two_part_steps_total",
      "Steps whose rows went through the layers in two parts, to hide the way to the experts.", {});
  decode_rows_ = metrics->AddCounter("conclave_router_rows_total", "Rows computed, recomputed ones included.",
                                     {{"phase", "decode"}});
  prefill_rows_ = metrics->AddCounter("conclave_router_rows_total", "Rows computed, recomputed ones included.",
                                      {{"phase", "prefill"}});
  prompt_tokens_ =
      metrics->AddCounter("conclave_router_prompt_tokens_total", "Prompt tokens of sequences that got a place.", {});
  prefix_hit_tokens_ =
      metrics->AddCounter("conclave_router_prefix_hit_tokens_total", "Of those, tokens found in the prefix cache.", {});
  preemptions_ = metrics->AddCounter("conclave_router_preemptions_total",
                                     "Sequences that gave their blocks back, to be computed again later.", {});
  not_finite_ = metrics->AddCounter("conclave_router_not_finite_total",
                                    "Sequences that failed because a hidden state or a logit was NaN or infinite.", {});
}

void EngineMetrics::Admitted(const Admission& admission, absl::Duration queued) {
  if (!on_) return;
  queue_seconds_->Observe(absl::ToDoubleSeconds(queued));
  prompt_tokens_->Add(admission.prompt_tokens);
  prefix_hit_tokens_->Add(admission.cached_tokens);
}

void EngineMetrics::FirstToken(absl::Duration prefill) {
  if (on_) prefill_seconds_->Observe(absl::ToDoubleSeconds(prefill));
}

void EngineMetrics::NotFinite() {
  if (on_) not_finite_->Add(1);
}

void EngineMetrics::StepDone(const Batch& batch, bool in_two_parts, absl::Duration took, int64_t preemptions) {
  if (!on_) return;
  step_seconds_->Observe(absl::ToDoubleSeconds(took));
  step_rows_->Observe(batch.rows);
  if (in_two_parts) two_part_steps_->Add(1);
  decode_rows_->Add(batch.decode_rows);
  prefill_rows_->Add(batch.rows - batch.decode_rows);
  preemptions_->Add(static_cast<double>(preemptions - preemptions_shown_));
  preemptions_shown_ = preemptions;
}

}  // namespace conclave
