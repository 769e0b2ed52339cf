#include "expert_service/background_loader.h"

#include <algorithm>

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

bool BackgroundLoader::LoadsAny(absl::Span<const LayerHolding> held) {
  std::lock_guard<std::mutex> lock(mutex_);
  return std::any_of(waiting_.begin(), waiting_.end(), [&](const LayerHolding& one) {
    return std::any_of(held.begin(), held.end(), [&](const LayerHolding& some) {
      return some.layer == one.layer &&
             std::find(some.experts.begin(), some.experts.end(), one.experts[0]) != some.experts.end();
    });
  });
}

void BackgroundLoader::Work() {
  std::unique_lock<std::mutex> lock(mutex_);
  while (true) {
    added_.wait(lock, [&] { return stop_ || !waiting_.empty(); });
    if (stop_) return;
    const LayerHolding next = waiting_.front();
    lock.unlock();
    // Calls that need the weights first report the same error to their callers.
    if (const absl::Status status = store_.Load(next); !status.ok()) LogWarning(status.message());
    lock.lock();
    waiting_.pop_front();
    if (waiting_gauge_ != nullptr) waiting_gauge_->Set(static_cast<double>(waiting_.size()));
    if (waiting_.empty()) LogInfo("all experts taken over are in memory");
  }
}

}  // namespace conclave
