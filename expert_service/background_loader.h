// Brings the weights of experts that a shard took over into memory while it serves already.
#ifndef CONCLAVE_EXPERT_SERVICE_BACKGROUND_LOADER_H_
#define CONCLAVE_EXPERT_SERVICE_BACKGROUND_LOADER_H_

#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>
#include <vector>

#include "absl/types/span.h"
#include "expert_service/expert_store.h"
#include "moe/metrics/metrics.h"
#include "moe/placement/placement.h"

namespace conclave {

// Add is thread-safe. One thread, which starts with the first Add and ends with the object, after at most one expert.
class BackgroundLoader {
 public:
  // Both must outlive the loader; `metrics` null: the progress is not shown.
  BackgroundLoader(const ExpertStore& store, Metrics* metrics);
  ~BackgroundLoader();

  // `held` must be held by the store and stay so for as long as LoadsAny of it.
  void Add(std::vector<LayerHolding> held);
  // Whether one of them is waiting, or being brought into memory now.
  bool LoadsAny(absl::Span<const LayerHolding> held);

 private:
  void Work();

  const ExpertStore& store_;
  Gauge* const waiting_gauge_;
  std::mutex mutex_;
  std::condition_variable added_;
  std::deque<LayerHolding> waiting_;  // guarded by mutex_; one expert each, the first of them the one being loaded
  bool stop_ = false;                 // guarded by mutex_
  std::thread thread_;                // guarded by mutex_
};

}  // namespace conclave

#endif  // CONCLAVE_EXPERT_SERVICE_BACKGROUND_LOADER_H_
