#include "gateway/tenants/tenant_metrics.h"

#include "gateway/refusal.h"

namespace conclave {

TenantSeries::TenantSeries(Metrics& metrics, const std::string& tenant)
    : prompt_tokens_(metrics.AddCounter("conclave_gateway_tenant_prompt_tokens_total", "Tokens of a tenant's prompts.",
                                        {{"tenant", tenant}})),
      generated_tokens_(metrics.AddCounter("conclave_gateway_tenant_generated_tokens_total",
                                           "Tokens of answers to a tenant.", {{"tenant", tenant}})),
      running_gauge_(metrics.AddGauge("conclave_gateway_tenant_answers_running", "Answers under way to a tenant.",
                                      {{"tenant", tenant}})) {
  for (int code = 0; code <= static_cast<int>(absl::StatusCode::kUnauthenticated); ++code) {
    requests_.push_back(metrics.AddCounter(
        "conclave_gateway_tenant_requests_total", "A tenant's requests for text by outcome, a gRPC status code.",
        {{"tenant", tenant}, {"code", absl::StatusCodeToString(static_cast<absl::StatusCode>(code))}}));
  }
  for (const char* limit : {kLimitRequestsPerMinute, kLimitTokensPerMinute, kLimitRequestsRunning, kLimitQueue}) {
    refused_[limit] =
        metrics.AddCounter("conclave_gateway_tenant_refused_total", "A tenant's requests that met a limit, by limit.",
                           {{"tenant", tenant}, {"limit", limit}});
  }
}

void TenantSeries::Entered(int answers, int prompt_tokens) {
  running_.fetch_add(answers, std::memory_order_relaxed);
  prompt_tokens_->Add(prompt_tokens);
}

void TenantSeries::Ended(const absl::Status& status) {
  const size_t code = static_cast<size_t>(status.raw_code());
  requests_[code < requests_.size() ? code : static_cast<size_t>(absl::StatusCode::kUnknown)]->Add(1);
  const auto limit = LimitOf(status);
  if (!limit.has_value()) return;
  const auto found = refused_.find(*limit);
  if (found != refused_.end()) found->second->Add(1);
}

TenantMetrics::TenantMetrics(Metrics& metrics) : metrics_(metrics) {
  hook_ = metrics.OnScrape([this] {
    absl::MutexLock lock(&mutex_);
    for (const auto& [name, series] : tenants_) series->Refresh();
  });
}

TenantSeries& TenantMetrics::Of(const std::string& tenant) {
  absl::MutexLock lock(&mutex_);
  const auto found = tenants_.find(tenant);
  if (found != tenants_.end()) return *found->second;
  const std::string name = tenants_.size() < kTenantsMax ? tenant : "other";
  std::unique_ptr<TenantSeries>& series = tenants_[name];
  if (series == nullptr) series = std::make_unique<TenantSeries>(metrics_, name);
  return *series;
}

}  // namespace conclave
