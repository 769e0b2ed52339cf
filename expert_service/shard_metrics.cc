#include "expert_service/shard_metrics.h"

#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "moe/base/ids.h"

namespace conclave {
namespace {

constexpr int kCodes = static_cast<int>(absl::StatusCode::kUnauthenticated) + 1;

}  // namespace

ShardMetrics::ShardMetrics(Metrics* metrics, const ExpertStore& store, const ModelSpec& spec, bool per_expert)
    : metrics_(metrics),
      experts_per_layer_(static_cast<size_t>(spec.gate.experts)),
      per_expert_(per_expert),
      tokens_(static_cast<size_t>(spec.layers) * experts_per_layer_),
      experts_(tokens_.size()),
      layers_(static_cast<size_t>(spec.layers)) {
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
  hook_ = metrics->OnScrape([this] { Refresh(); });
}

void ShardMetrics::SetHeld(const ExpertStore& store) {
  if (metrics_ == nullptr) return;
  held_->Set(static_cast<double>(store.experts()));
  held_bytes_->Set(static_cast<double>(store.stored_bytes()));
  std::lock_guard<std::mutex> lock(mutex_);
  for (const LayerHolding& holding : store.holdings()) {
    if (holding.experts.empty()) continue;
    const size_t layer = static_cast<size_t>(Value(holding.layer));
    const std::string name = absl::StrCat(layer);
    layers_[layer].counter = metrics_->AddCounter("conclave_expert_layer_tokens_total",
                                                  "Tokens of a layer that were run here, once for each expert.",
                                                  {{"layer", name}});
    if (!per_expert_) continue;
    for (const ExpertId expert : holding.experts) {
      experts_[layer * experts_per_layer_ + static_cast<size_t>(Value(expert))].counter = metrics_->AddCounter(
          "conclave_expert_tokens_total", "Tokens that were run through each expert held here; by a flag.",
          {{"layer", name}, {"expert", absl::StrCat(Value(expert))}});
    }
  }
}

void ShardMetrics::CountRun(const ExpertCall& call, absl::Duration queued, absl::Duration compute) {
  std::atomic<uint64_t>* const tokens = &tokens_[static_cast<size_t>(Value(call.layer)) * experts_per_layer_];
  for (const int32_t expert : call.experts) {
    std::atomic<uint64_t>& count = tokens[expert];
    count.store(count.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
  }
  if (metrics_ == nullptr) return;
  rows_->Add(static_cast<double>(call.rows.rows));
  queue_seconds_->Observe(absl::ToDoubleSeconds(queued));
  compute_seconds_->Observe(absl::ToDoubleSeconds(compute));
}

std::vector<uint64_t> ShardMetrics::Tokens(LayerId layer) const {
  std::vector<uint64_t> tokens(experts_per_layer_);
  const std::atomic<uint64_t>* const counts = &tokens_[static_cast<size_t>(Value(layer)) * experts_per_layer_];
  for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = counts[i].load(std::memory_order_relaxed);
  return tokens;
}

void ShardMetrics::Refresh() {
  const auto show = [](uint64_t count, Shown& shown) {
    if (shown.counter == nullptr) return;
    shown.counter->Add(static_cast<double>(count - shown.count));
    shown.count = count;
  };
  std::lock_guard<std::mutex> lock(mutex_);
  for (size_t layer = 0; layer < layers_.size(); ++layer) {
    uint64_t sum = 0;
    for (size_t i = layer * experts_per_layer_; i < (layer + 1) * experts_per_layer_; ++i) {
      const uint64_t count = tokens_[i].load(std::memory_order_relaxed);
      sum += count;
      show(count, experts_[i]);
    }
    show(sum, layers_[layer]);
  }
}

void ShardMetrics::CountEnd(absl::StatusCode code) {
  if (metrics_ != nullptr) ended_[static_cast<int>(code)]->Add(1);
}

ExpertStore::Progress LoadGauge(Metrics& metrics) {
  Gauge* const loaded = metrics.AddGauge("conclave_expert_loaded", "Experts whose weights are in memory.", {});
  Gauge* const bytes = metrics.AddGauge("conclave_expert_loaded_bytes", "Stored bytes of the experts in memory.", {});
  return [loaded, bytes](int64_t experts_loaded, int64_t, int64_t bytes_loaded) {
    loaded->Set(static_cast<double>(experts_loaded));
    bytes->Set(static_cast<double>(bytes_loaded));
  };
}

}  // namespace conclave
