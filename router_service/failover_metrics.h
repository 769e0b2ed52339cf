// What Prometheus sees of calls: those that went wrong, how long layers take, and how many bytes travel.
#ifndef CONCLAVE_ROUTER_SERVICE_FAILOVER_METRICS_H_
#define CONCLAVE_ROUTER_SERVICE_FAILOVER_METRICS_H_

#include <cstdint>
#include <map>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "moe/metrics/metrics.h"

namespace conclave {

// Used by one thread. `metrics` null: nothing is counted.
class FailoverMetrics {
 public:
  explicit FailoverMetrics(Metrics* metrics);

  // A call ended with `code`, and its rows need another one.
  void CountResend(absl::StatusCode code);
  void CountHedge(int64_t pairs);
  void CountHedgeWin();
  // Activations that went to a shard by `way` (Transport::Way), and came back: payloads, without what a transport puts
  // around them.
  void CountSent(const char* way, int64_t bytes);
  void CountReceived(const char* way, int64_t bytes);
  // From Start to the last message sent, and from the last reply to the end of Finish.
  void ObserveDispatch(absl::Duration duration);
  void ObserveCombine(absl::Duration duration);

 private:
  std::map<absl::StatusCode, Counter*> resends_;
  Counter* hedges_ = nullptr;
  Counter* hedged_rows_ = nullptr;
  Counter* hedge_wins_ = nullptr;
  Histogram* dispatch_ = nullptr;
  Histogram* combine_ = nullptr;
  struct Bytes {
    const char* way;
    Counter* sent;
    Counter* received;
  };
  std::vector<Bytes> bytes_;  // a few: searched from the front
};

}  // namespace conclave

#endif  // CONCLAVE_ROUTER_SERVICE_FAILOVER_METRICS_H_
