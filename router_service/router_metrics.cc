#include "router_service/router_metrics.h"

#include "absl/strings/str_cat.h"

namespace conclave {

RouterMetrics::RouterMetrics(Metrics& metrics)
    : time_to_first_token(metrics.AddHistogram("conclave_router_time_to_first_token_seconds",
                                               "Time from the arrival of a sequence to its first token.", {},
                                               LatencyBuckets())),
      inter_token_latency(metrics.AddHistogram("conclave_router_inter_token_latency_seconds",
                                               "Time between two tokens of one sequence.", {}, LatencyBuckets())),
      prefill_tokens(metrics.AddCounter("conclave_router_prefill_tokens_total",
                                        "Prompt tokens of sequences that got their first token.", {})),
      decode_tokens(metrics.AddCounter("conclave_router_decode_tokens_total", "Tokens generated.", {})),
      metrics_(metrics),
      requests_queued_(metrics.AddGauge("conclave_router_requests_queued", "Sequences that wait for a place.", {})),
      requests_running_(metrics.AddGauge("conclave_router_requests_running", "Sequences that run.", {})),
      kv_blocks_used_(metrics.AddGauge("conclave_router_kv_blocks_used",
                                       "KV cache blocks of sequences and of cached prefixes.", {})),
      kv_blocks_cached_(metrics.AddGauge("conclave_router_kv_blocks_cached",
                                         "KV cache blocks that only the prefix cache keeps.", {})),
      kv_blocks_capacity_(metrics.AddGauge("conclave_router_kv_blocks_capacity", "KV cache blocks in all.", {})) {
  for (int code = 0; code <= static_cast<int>(absl::StatusCode::kUnauthenticated); ++code) {
    const auto status_code = static_cast<absl::StatusCode>(code);
    requests_[status_code] =
        metrics.AddCounter("conclave_router_requests_total", "Sequences by outcome, a gRPC status code.",
                           {{"code", absl::StatusCodeToString(status_code)}});
  }
}

void RouterMetrics::RequestEnded(absl::StatusCode code) {
  const auto found = requests_.find(code);
  (found == requests_.end() ? requests_[absl::StatusCode::kUnknown] : found->second)->Add(1);
}

void RouterMetrics::Watch(const Engine& engine) {
  hook_ = metrics_.OnScrape([this, &engine] { Refresh(engine); });
}

void RouterMetrics::Refresh(const Engine& engine) {
  const EngineStats stats = engine.stats();
  requests_queued_->Set(static_cast<double>(stats.queued));
  requests_running_->Set(static_cast<double>(stats.running));
  kv_blocks_used_->Set(static_cast<double>(stats.kv_blocks_used));
  kv_blocks_cached_->Set(static_cast<double>(stats.kv_blocks_cached));
  kv_blocks_capacity_->Set(static_cast<double>(stats.kv_blocks_total));
  RefreshExperts(engine.ExpertTokens());
}

// The engine counts without our help; a scrape only carries the difference over.
void RouterMetrics::RefreshExperts(const std::vector<std::vector<uint64_t>>& tokens) {
  experts_.resize(tokens.size());
  for (size_t layer = 0; layer < tokens.size(); ++layer) {
    experts_[layer].resize(tokens[layer].size());
    for (size_t expert = 0; expert < tokens[layer].size(); ++expert) {
      ExpertTokens& shown = experts_[layer][expert];
      if (shown.counter == nullptr) {
        shown.counter = metrics_.AddCounter("conclave_router_expert_tokens_total", "Tokens sent to each expert.",
                                            {{"layer", absl::StrCat(layer)}, {"expert", absl::StrCat(expert)}});
      }
      shown.counter->Add(static_cast<double>(tokens[layer][expert] - shown.shown));
      shown.shown = tokens[layer][expert];
    }
  }
}

}  // namespace conclave
