// What each tenant does, for Prometheus. The label `tenant` comes from the key file alone, never from a request.
#ifndef CONCLAVE_GATEWAY_TENANTS_TENANT_METRICS_H_
#define CONCLAVE_GATEWAY_TENANTS_TENANT_METRICS_H_

#include <atomic>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "moe/metrics/metrics.h"

namespace conclave {

// The series of one tenant. Thread-safe.
class TenantSeries {
 public:
  TenantSeries(Metrics& metrics, const std::string& tenant);

  // A request has been let in, with so many answers to come; Left must follow.
  void Entered(int answers, int prompt_tokens);
  void Left(int answers) { running_.fetch_sub(answers, std::memory_order_relaxed); }
  void Generated(int tokens) { generated_tokens_->Add(tokens); }
  // How a request ended, let in or not; a limit that it met is counted by its name.
  void Ended(const absl::Status& status);
  // Shows how many answers are under way.
  void Refresh() { running_gauge_->Set(running_.load(std::memory_order_relaxed)); }

 private:
  std::vector<Counter*> requests_;           // by status code
  std::map<std::string, Counter*> refused_;  // by limit; complete, so that it never changes
  Counter* const prompt_tokens_;
  Counter* const generated_tokens_;
  Gauge* const running_gauge_;
  std::atomic<int> running_{0};
};

// The series of all tenants. Thread-safe.
class TenantMetrics {
 public:
  // Tenants beyond so many, as key files come and go, share the series of the tenant "other".
  static constexpr size_t kTenantsMax = 1000;

  // `metrics` must outlive it.
  explicit TenantMetrics(Metrics& metrics);

  // The series of the tenant with that name; valid as long as this.
  TenantSeries& Of(const std::string& tenant);

 private:
  Metrics& metrics_;
  absl::Mutex mutex_;
  std::map<std::string, std::unique_ptr<TenantSeries>> tenants_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<RefreshHook> hook_;  // last: it uses the others
};

}  // namespace conclave

#endif  // CONCLAVE_GATEWAY_TENANTS_TENANT_METRICS_H_
