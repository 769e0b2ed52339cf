// What a controller shows of itself: that it lives, what it moves, and what that is good for.
#ifndef CONCLAVE_PLACEMENT_SERVICE_CONTROLLER_METRICS_H_
#define CONCLAVE_PLACEMENT_SERVICE_CONTROLLER_METRICS_H_

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "moe/metrics/metrics.h"
#include "placement_service/pool_plan.h"

namespace conclave {

class ControllerMetrics {
 public:
  // `metrics` null: nothing is shown. It must outlive this.
  explicit ControllerMetrics(Metrics* metrics);
  void ShowPool(const Pool& pool, int silent);
  void ShowPlan(const PoolPlan& plan);
  void CountLoads(int experts, int64_t bytes);
  void CountUnloads(int experts);
  void EndRound(absl::string_view outcome, absl::Time now, absl::Duration took);

 private:
  Metrics* const metrics_;
  Counter *loads_ = nullptr, *unloads_ = nullptr, *bytes_ = nullptr;
  Gauge *answering_ = nullptr, *silent_ = nullptr, *orphans_ = nullptr, *left_ = nullptr, *last_round_ = nullptr;
  Gauge *measured_ = nullptr, *possible_ = nullptr, *planned_ = nullptr;
  Histogram* seconds_ = nullptr;
};

}  // namespace conclave

#endif  // CONCLAVE_PLACEMENT_SERVICE_CONTROLLER_METRICS_H_
