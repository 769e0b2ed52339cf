#include "router_service/router_metrics.h"

#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "router_service/expert_balance.h"

namespace conclave {
namespace {

// Series of experts where not every expert has one.
constexpr size_t kHotExperts = 16;
constexpr char kHotExpertShare[] = "conclave_router_hot_expert_share";

MetricLabels ExpertLabels(int layer, int expert) {
  return {{"layer", absl::StrCat(layer)}, {"expert", absl::StrCat(expert)}};
}

}  // namespace

RouterMetrics::RouterMetrics(Metrics& metrics, bool per_expert)
    : time_to_first_token(metrics.AddHistogram("conclave_router_time_to_first_token_seconds",
                                               "Time from the arrival of a sequence to its first token.", {},
                                               LatencyBuckets())),
      inter_token_latency(metrics.AddHistogram("conclave_router_inter_token_latency_seconds",
                                               "Time between two tokens of one sequence.", {}, LatencyBuckets())),
      decode_seconds(metrics.AddHistogram("conclave_router_decode_seconds",
                                          "Time from a sequence's first token to its last.", {}, LatencyBuckets())),
      prefill_tokens(metrics.AddCounter("conclave_router_prefill_tokens_total",
                                        "Prompt tokens of sequences whose prompt was read to its end.", {})),
      decode_tokens(metrics.AddCounter("conclave_router_decode_tokens_total", "Tokens generated.", {})),
      metrics_(metrics),
      per_expert_(per_expert),
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

void RouterMetrics::Watch(const Engine& engine, bool experts_are_local) {
  experts_are_local_ = experts_are_local;
  hook_ = metrics_.OnScrape([this, &engine] { Refresh(engine); });
}

void RouterMetrics::Refresh(const Engine& engine) {
  const EngineStats stats = engine.stats();
  requests_queued_->Set(static_cast<double>(stats.queued));
  requests_running_->Set(static_cast<double>(stats.running));
  kv_blocks_used_->Set(static_cast<double>(stats.kv_blocks_used));
  kv_blocks_cached_->Set(static_cast<double>(stats.kv_blocks_cached));
  kv_blocks_capacity_->Set(static_cast<double>(stats.kv_blocks_total));
  const auto tokens = engine.ExpertTokens();
  RefreshBalance(tokens);
  if (per_expert_) RefreshExperts(tokens);
}

void RouterMetrics::RefreshBalance(const std::vector<std::vector<uint64_t>>& tokens) {
  const auto recent = window_.Update(tokens);
  layers_.resize(tokens.size());
  for (size_t layer = 0; layer < tokens.size(); ++layer) {
    if (tokens[layer].empty()) continue;
    LayerTokens& shown = layers_[layer];
    if (shown.balancedness == nullptr) {
      shown.balancedness = AddLayerBalancedness(metrics_, absl::StrCat(layer), "experts");
      if (experts_are_local_) shown.local = AddLayerShardTokens(metrics_, absl::StrCat(layer), "local");
    }
    shown.balancedness->Set(Balancedness(recent[layer]));
    if (shown.local == nullptr) continue;
    const uint64_t total = std::accumulate(tokens[layer].begin(), tokens[layer].end(), uint64_t{0});
    shown.local->Add(static_cast<double>(total - shown.shown));
    shown.shown = total;
  }
  ShowHottest(HottestExperts(recent, kHotExperts));
}

// Series come and go with the heat.
void RouterMetrics::ShowHottest(const std::vector<HotExpert>& hottest) {
  std::map<std::pair<int, int>, Gauge*> shown;
  for (const HotExpert& hot : hottest) {
    Gauge*& gauge = shown[{hot.layer, hot.expert}];
    gauge = metrics_.AddGauge("conclave_router_hot_expert_share",
                              "The hottest experts' shares of their layers' tokens in the last 30 to 60 seconds.",
                              ExpertLabels(hot.layer, hot.expert));
    gauge->Set(hot.share);
  }
  for (const auto& [place, gauge] : hot_) {
    if (!shown.contains(place)) metrics_.RemoveGauge(kHotExpertShare, ExpertLabels(place.first, place.second));
  }
  hot_ = std::move(shown);
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
