// What an attention service tells Prometheus.
#ifndef CONCLAVE_ROUTER_SERVICE_ROUTER_METRICS_H_
#define CONCLAVE_ROUTER_SERVICE_ROUTER_METRICS_H_

#include <cstdint>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "moe/metrics/metrics.h"
#include "router_service/engine.h"
#include "router_service/expert_balance.h"
#include "router_service/token_window.h"

namespace conclave {

// Thread-safe but for Watch. The handles live as long as the Metrics.
class RouterMetrics {
 public:
  // per_expert: tokens of every expert of every layer as series of their own.
  RouterMetrics(Metrics& metrics, bool per_expert);

  // From now on each scrape shows the engine's queue, KV cache and balance of experts. experts_are_local: no shard
  // counts what runs in this process. The engine must outlive this object. Called once.
  void Watch(const Engine& engine, bool experts_are_local);

  void RequestEnded(absl::StatusCode code);

  Histogram* const time_to_first_token;
  Histogram* const inter_token_latency;
  Histogram* const decode_seconds;
  Counter* const prefill_tokens;
  Counter* const decode_tokens;

 private:
  void Refresh(const Engine& engine);
  void RefreshExperts(const std::vector<std::vector<uint64_t>>& tokens);
  void ShowHottest(const std::vector<HotExpert>& hottest);
  void RefreshBalance(const std::vector<std::vector<uint64_t>>& tokens);

  struct ExpertTokens {
    Counter* counter = nullptr;
    uint64_t shown = 0;
  };

  // Of one layer.
  struct LayerTokens {
    Counter* local = nullptr;  // where experts run in this process
    uint64_t shown = 0;
    Gauge* balancedness = nullptr;
  };

  Metrics& metrics_;
  const bool per_expert_;
  std::map<absl::StatusCode, Counter*> requests_;  // every code, so that it never changes
  Gauge* const requests_queued_;
  Gauge* const requests_running_;
  Gauge* const kv_blocks_used_;
  Gauge* const kv_blocks_cached_;
  Gauge* const kv_blocks_capacity_;
  bool experts_are_local_ = false;
  // Used by the hook alone.
  std::vector<std::vector<ExpertTokens>> experts_;  // [layers][experts]
  std::vector<LayerTokens> layers_;                 // [layers]
  TokenWindow window_;
  std::map<std::pair<int, int>, Gauge*> hot_;  // by layer and expert
  std::unique_ptr<RefreshHook> hook_;               // last: it uses the others
};

}  // namespace conclave

#endif  // CONCLAVE_ROUTER_SERVICE_ROUTER_METRICS_H_
