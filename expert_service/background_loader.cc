#include "expert_service/background_loader.h"

#include "absl/strings/str_cat.h"
#include "moe/base/log.h"

namespace conclave {

BackgroundLoader::BackgroundLoader(const ExpertStore& store, Metrics* metrics)
    : store_(store),
      waiting_gauge_(metrics == nullptr
                         ? nullptr
                         : metrics->AddGauge("conclave_expert_loads_waiting",
                                             "Experts taken over whose weights are not all in memory yet.", {})) {}

BackgroundLoader::~BackgroundLoader() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
  }
  added_.notify_one();
  if (thread_.joinable()) thread_.join();
}

void BackgroundLoader::Add(std::vector<LayerHolding> held) {
  std::lock_guard<std::mutex> lock(mutex_);
  for (const LayerHolding& holding : held) {
    for (const ExpertId expert : holding.experts) waiting_.push_back({holding.layer, {expert}});
  }
  if (waiting_gauge_ != nullptr) waiting_gauge_->Set(static_cast<double>(waiting_.size()));
  if (!thread_.joinable()) thread_ = std::thread([this] { Work(); });
  added_.notify_one();
}

void BackgroundLoader::Work() {
  std::unique_lock<std::mutex> lock(mutex_);
  while (true) {
    added_.wait(lock, [&] { return stop_ || !waiting_.empty(); });
    if (stop_) return;
    const LayerHolding next = std::move(waiting_.front());
    waiting_.pop_front();
    lock.unlock();
    // Calls that need the weights first report the same error to their callers.
    if (const absl::Status status = store_.Load(next); !status.ok()) LogWarning(status.message());
    lock.lock();
    if (waiting_gauge_ != nullptr) waiting_gauge_->Set(static_cast<double>(waiting_.size()));
    if (waiting_.empty()) LogInfo("all experts taken over are in memory");
  }
}

}  // namespace conclave
