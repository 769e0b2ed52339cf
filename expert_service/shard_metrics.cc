#include "expert_service/shard_metrics.h"

#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "moe/base/ids.h"

namespace conclave {
namespace {

constexpr int kCodes = static_cast<int>(absl::StatusCode::kUnauthenticated) + 1;

}  // namespace

ShardMetrics::ShardMetrics(Metrics* metrics, const ExpertStore& store, int experts_per_layer)
    : metrics_(metrics), experts_per_layer_(experts_per_layer) {
  if (metrics == nullptr) return;
  rows_ = metrics->AddCounter("conclave_expert_rows_total", "Rows received from routers and run.", {});
  queue_seconds_ = metrics->AddHistogram("conclave_expert_queue_seconds",
                                         "Time that calls waited for calls of other routers.", {}, LatencyBuckets());
  compute_seconds_ =
      metrics->AddHistogram("conclave_expert_compute_seconds", "Time that calls were computed.", {}, LatencyBuckets());
  for (int code = 0; code < kCodes; ++code) {
    const std::string name = absl::StatusCodeToString(static_cast<absl::StatusCode>(code));
    ended_.push_back(metrics->AddCounter("conclave_expert_calls_total", "Calls of routers, by how they ended.",
                                         {{"code", absl::AsciiStrToLower(name)}}));
  }
  held_ = metrics->AddGauge("conclave_expert_held", "Experts held here, over all layers.", {});
  held_bytes_ = metrics->AddGauge("conclave_expert_held_bytes", "Stored bytes of the experts held here.", {});
  SetHeld(store);
}

void ShardMetrics::SetHeld(const ExpertStore& store) {
  if (metrics_ == nullptr) return;
  held_->Set(static_cast<double>(store.experts()));
  held_bytes_->Set(static_cast<double>(store.stored_bytes()));
  for (const LayerHolding& holding : store.holdings()) {
    const size_t of_layer = static_cast<size_t>(Value(holding.layer)) * experts_per_layer_;
    if (tokens_.size() < of_layer + experts_per_layer_) tokens_.resize(of_layer + experts_per_layer_, nullptr);
    for (const ExpertId expert : holding.experts) {
      tokens_[of_layer + Value(expert)] =
          metrics_->AddCounter("conclave_expert_tokens_total", "Tokens that were run through each expert held here.",
                               {{"layer", absl::StrCat(Value(holding.layer))}, {"expert", absl::StrCat(Value(expert))}});
    }
  }
}

void ShardMetrics::CountRun(const ExpertCall& call, absl::Duration queued, absl::Duration compute) {
  if (metrics_ == nullptr) return;
  rows_->Add(static_cast<double>(call.rows.rows));
  queue_seconds_->Observe(absl::ToDoubleSeconds(queued));
  compute_seconds_->Observe(absl::ToDoubleSeconds(compute));
  Counter* const* const tokens = &tokens_[static_cast<size_t>(Value(call.layer)) * experts_per_layer_];
  for (const int32_t expert : call.experts) tokens[expert]->Add(1);
}

void ShardMetrics::CountEnd(absl::StatusCode code) {
  if (metrics_ != nullptr) ended_[static_cast<int>(code)]->Add(1);
}

ExpertStore::Progress LoadGauge(Metrics& metrics) {
  Gauge* const loaded = metrics.AddGauge("conclave_expert_loaded", "Experts whose weights are in memory.", {});
  return [loaded](int64_t experts_loaded, int64_t) { loaded->Set(static_cast<double>(experts_loaded)); };
}

}  // namespace conclave
