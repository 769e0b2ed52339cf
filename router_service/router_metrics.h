// What an attention service tells Prometheus.
#ifndef CONCLAVE_ROUTER_SERVICE_ROUTER_METRICS_H_
#define CONCLAVE_ROUTER_SERVICE_ROUTER_METRICS_H_

#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "moe/metrics/metrics.h"
#include "router_service/engine.h"

namespace conclave {

// Thread-safe but for Watch. The handles live as long as the Metrics.
class RouterMetrics {
 public:
  explicit RouterMetrics(Metrics& metrics);

  // From now on each scrape shows the engine's queue, KV cache and tokens by layer and expert. The engine must outlive
  // this object. Called once.
  void Watch(const Engine& engine);

  void RequestEnded(absl::StatusCode code);

  Histogram* const time_to_first_token;
  Histogram* const inter_token_latency;
  Counter* const prefill_tokens;
  Counter* const decode_tokens;

 private:
  void Refresh(const Engine& engine);
  void RefreshExperts(const std::vector<std::vector<uint64_t>>& tokens);

  struct ExpertTokens {
    Counter* counter = nullptr;
    uint64_t shown = 0;
  };

  Metrics& metrics_;
  std::map<absl::StatusCode, Counter*> requests_;  // every code, so that it never changes
  Gauge* const requests_queued_;
  Gauge* const requests_running_;
  Gauge* const kv_blocks_used_;
  Gauge* const kv_blocks_cached_;
  Gauge* const kv_blocks_capacity_;
  std::vector<std::vector<ExpertTokens>> experts_;  // [layers][experts]; used by the hook alone
  std::unique_ptr<RefreshHook> hook_;               // last: it uses the others
};

}  // namespace conclave

#endif  // CONCLAVE_ROUTER_SERVICE_ROUTER_METRICS_H_
