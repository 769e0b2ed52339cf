#include "gateway/routers/router_pool.h"

#include <algorithm>
#include <atomic>
#include <optional>
#include <set>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "gateway/routers/balance.h"
#include "gateway/routers/pooled_stream.h"
#include "gateway/routers/router_set.h"
#include "moe/base/log.h"

namespace conclave {
namespace {

constexpr absl::Duration kTick = absl::Milliseconds(50);
constexpr absl::Duration kLogInterval = absl::Seconds(5);
constexpr double kLatenciesMax = 50;

class RouterPoolImpl final : public RouterPool {
 public:
  RouterPoolImpl(const RouterPoolOptions& options, Metrics& metrics)
      : options_(options),
        set_(options.addresses),
        parts_{
            options_,
            set_,
            clients_,
            open_,
            stopping_,
            metrics.AddCounter("conclave_gateway_streams_resumed_total",
                               "Answers that went on at another attention service.", {}),
            metrics.AddCounter("conclave_gateway_requests_retried_total",
                               "Sequences that were sent to another attention service before their first token.", {})} {
    for (const std::string& address : options_.addresses)
      clients_.push_back(RouterClient::Create(address, options_.credentials));
    std::vector<std::pair<Gauge*, Gauge*>> gauges;
    for (const std::string& address : options_.addresses) {
      gauges.emplace_back(metrics.AddGauge("conclave_gateway_router_up", "Whether the attention service can be used.",
                                           {{"router", address}}),
                          metrics.AddGauge("conclave_gateway_router_load",
                                           "Sequences that run or wait at the attention service, as far as is known.",
                                           {{"router", address}}));
    }
    hook_ = metrics.OnScrape([this, gauges] {
      for (int i = 0; i < set_.size(); ++i) {
        gauges[static_cast<size_t>(i)].first->Set(set_.usable(i));
        gauges[static_cast<size_t>(i)].second->Set(set_.load(i));
      }
    });
    for (int i = 0; i < set_.size(); ++i) threads_.emplace_back([this, i] { Poll(i); });
    threads_.emplace_back([this] { Tick(); });
  }

  ~RouterPoolImpl() override {
    {
      absl::MutexLock lock(&mutex_);
      ending_ = true;
    }
    for (std::thread& thread : threads_) thread.join();
    {
      absl::MutexLock lock(&mutex_);
      streams_.clear();
    }
    open_.Drain(absl::InfiniteFuture());
  }

  absl::StatusOr<v1::GetStatusResponse> WaitUntilServing(absl::Time deadline) override {
    while (!set_.AwaitUsable(std::min(deadline, absl::Now() + kLogInterval))) {
      if (absl::Now() >= deadline) return absl::DeadlineExceededError(set_.Complaint());
      LogInfo(absl::StrCat("waiting: ", set_.Complaint()));
    }
    return *set_.identity();
  }

  void StopWaiting() override { stopping_.store(true); }

  bool serving() const override { return set_.any_usable(); }

  void WatchServing(std::function<void(bool serving)> on_change) override {
    absl::MutexLock lock(&mutex_);
    on_change_ = std::move(on_change);
    told_.reset();
  }

  std::string fingerprint() const override {
    const auto identity = set_.identity();
    return identity.has_value() ? absl::StrCat(identity->model_fingerprint(), "/", identity->numeric_profile()) : "";
  }

  int Place(const v1::DecodeRequest& request) override {
    const std::vector<int> order = set_.Order(AffinityKey(request.prompt_ids(), request.cache_salt()), -1, {});
    return order.empty() ? -1 : order.front();
  }

  std::shared_ptr<DecodeCall> Decode(int place, v1::DecodeRequest request, absl::Time deadline,
                                     std::shared_ptr<DecodeListener> listener) override {
    auto stream = std::make_shared<PooledStream>(parts_, place, std::move(request), deadline, std::move(listener));
    {
      absl::MutexLock lock(&mutex_);
      streams_.insert(stream);
    }
    stream->Begin();
    return stream;
  }

 private:
  // Waits; false: the pool goes.
  bool Pause(absl::Duration duration) {
    absl::MutexLock lock(&mutex_);
    return !mutex_.AwaitWithTimeout(absl::Condition(&ending_), duration);
  }

  std::vector<std::shared_ptr<PooledStream>> Streams() {
    absl::MutexLock lock(&mutex_);
    return {streams_.begin(), streams_.end()};
  }

  // One thread a service: one that hangs must not keep us from hearing of the others.
  void Poll(int router) {
    do {
      const absl::Duration patience = std::max(options_.hang_timeout, kLatenciesMax * set_.latency(router));
      const absl::Time asked = absl::Now();
      const int running = set_.running(router);
      const auto status = clients_[static_cast<size_t>(router)]->GetStatus(patience);
      if (status.ok()) {
        set_.Report(router, *status, absl::Now() - asked, running);
        continue;
      }
      const bool hangs = absl::IsDeadlineExceeded(status.status());
      set_.SetDown(router,
                   hangs ? absl::UnavailableError(absl::StrCat("has not answered for ", absl::FormatDuration(patience)))
                         : status.status());
      if (!hangs) continue;
      for (const auto& stream : Streams()) stream->Leave(router);
    } while (Pause(options_.poll_interval));
  }

  void Tick() {
    while (Pause(kTick)) {
      for (const auto& stream : Streams()) {
        stream->Tick(absl::Now());
        if (!stream->done()) continue;
        absl::MutexLock lock(&mutex_);
        streams_.erase(stream);
      }
      const bool now = set_.any_usable();
      absl::MutexLock lock(&mutex_);
      if (on_change_ == nullptr || told_ == now) continue;
      told_ = now;
      on_change_(now);
    }
  }

  const RouterPoolOptions options_;
  RouterSet set_;
  std::vector<std::unique_ptr<RouterClient>> clients_;
  OpenCalls open_;
  std::atomic<bool> stopping_{false};
  const PoolParts parts_;
  std::unique_ptr<RefreshHook> hook_;
  absl::Mutex mutex_;
  bool ending_ ABSL_GUARDED_BY(mutex_) = false;
  std::function<void(bool)> on_change_ ABSL_GUARDED_BY(mutex_);
  std::optional<bool> told_ ABSL_GUARDED_BY(mutex_);                         // what it was told last
  std::set<std::shared_ptr<PooledStream>> streams_ ABSL_GUARDED_BY(mutex_);  // those that are done go at the next tick
  std::vector<std::thread> threads_;
};

}  // namespace

std::unique_ptr<RouterPool> RouterPool::Create(const RouterPoolOptions& options, Metrics& metrics) {
  return std::make_unique<RouterPoolImpl>(options, metrics);
}

}  // namespace conclave
