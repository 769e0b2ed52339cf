// What Prometheus sees of calls that went wrong.
#ifndef CONCLAVE_ROUTER_SERVICE_FAILOVER_METRICS_H_
#define CONCLAVE_ROUTER_SERVICE_FAILOVER_METRICS_H_

#include <map>

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
};

}  // namespace conclave

#endif  // CONCLAVE_ROUTER_SERVICE_FAILOVER_METRICS_H_
