#include "gateway/routers/router_pool.h"

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "gateway/refusal.h"
#include "gateway/routers/balance.h"
#include "gateway/routers/pooled_stream.h"
#include "gateway/routers/router_set.h"
#include "moe/base/log.h"
#include "moe/daemon/peer_list.h"

namespace conclave {
namespace {

constexpr absl::Duration kTick = absl::Milliseconds(50);
constexpr absl::Duration kLogInterval = absl::Seconds(5);
constexpr double kLatenciesMax = 50;
// Places for services where they are found by a name.
constexpr int kFoundRoutersMax = 256;

int Places(const RouterPoolOptions& options) {
  return PeersChange(options.addresses) ? kFoundRoutersMax : static_cast<int>(options.addresses.size());
}

// Shows for each service of the set whether it can be used and how busy it is, and how busy all are together, which is
// what balancers before several gateways look at. Called by one thread at a time.
class RouterGauges {
 public:
  RouterGauges(const RouterSet& set, Metrics& metrics)
      : set_(set),
        metrics_(metrics),
        queued_(metrics.AddGauge("conclave_gateway_backend_requests_queued",
                                 "Sequences that wait at all attention services in use, whoever sent them.", {})),
        running_(metrics.AddGauge("conclave_gateway_backend_requests_running",
                                  "Sequences that run at all attention services in use, whoever sent them.", {})),
        kv_used_(metrics.AddGauge("conclave_gateway_backend_kv_cache_used_ratio",
                                  "Share of the KV cache that sequences hold, over all attention services in use.",
                                  {})) {
    Show();
  }

  void Show() {
    const RouterLoad total = set_.total_load();
    queued_->Set(static_cast<double>(total.queued));
    running_->Set(static_cast<double>(total.running));
    const double blocks = static_cast<double>(total.kv_blocks);
    kv_used_->Set(total.kv_blocks == 0 ? 0 : static_cast<double>(total.kv_blocks_used) / blocks);
    std::map<std::string, Pair> shown;
    for (int i = 0; i < set_.size(); ++i) {
      const std::string address = set_.address(i);
      if (address.empty()) continue;
      const auto known = shown_.find(address);
      const Pair pair = known != shown_.end() ? known->second : Add(address);
      pair.up->Set(set_.usable(i));
      pair.load->Set(set_.load(i));
      shown[address] = pair;
    }
    for (const auto& [address, pair] : shown_) {
      if (shown.count(address) > 0) continue;
      metrics_.RemoveGauge("conclave_gateway_router_up", {{"router", address}});
      metrics_.RemoveGauge("conclave_gateway_router_load", {{"router", address}});
    }
    shown_ = std::move(shown);
  }

 private:
  struct Pair {
    Gauge* up = nullptr;
    Gauge* load = nullptr;
  };

  Pair Add(const std::string& address) {
    return {metrics_.AddGauge("conclave_gateway_router_up", "Whether the attention service can be used.",
                              {{"router", address}}),
            metrics_.AddGauge("conclave_gateway_router_load",
                              "Sequences that run or wait at the attention service, as far as is known.",
                              {{"router", address}})};
  }

  const RouterSet& set_;
  Metrics& metrics_;
  Gauge* const queued_;
  Gauge* const running_;
  Gauge* const kv_used_;
  std::map<std::string, Pair> shown_;
};

class RouterPoolImpl final : public RouterPool {
 public:
  RouterPoolImpl(const RouterPoolOptions& options, Metrics& metrics)
      : options_(options),
        peers_(PeerList::Start(options.addresses, options.discovery_interval)),
        set_(Places(options)),
        clients_(static_cast<size_t>(set_.size())),
        parts_{
            options_,
            set_,
            clients_,
            open_,
            stopping_,
            [this] { AskNow(); },
            metrics.AddCounter("conclave_gateway_streams_resumed_total",
                               "Answers that went on at another attention service.", {}),
            metrics.AddCounter("conclave_gateway_requests_retried_total",
                               "Sequences that were sent to another attention service before their first token.", {})},
        refused_(metrics.AddCounter("conclave_gateway_requests_refused_full_total",
                                    "Requests refused without asking the attention services, which were all full.",
                                    {})),
        pollers_(static_cast<size_t>(set_.size())) {
    TakeIn(peers_->Addresses());
    gauges_ = std::make_unique<RouterGauges>(set_, metrics);
    hook_ = metrics.OnScrape([this] { gauges_->Show(); });
    ticker_ = std::thread([this] { Tick(); });
  }

  ~RouterPoolImpl() override {
    {
      absl::MutexLock lock(&mutex_);
      ending_ = true;
    }
    ticker_.join();
    for (std::thread& poller : pollers_) {
      if (poller.joinable()) poller.join();
    }
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

  std::vector<std::string> addresses() const override { return set_.addresses(); }

  void WatchServing(std::function<void(bool serving)> on_change) override {
    absl::MutexLock lock(&mutex_);
    on_change_ = std::move(on_change);
    told_.reset();
  }

  std::string fingerprint() const override {
    const auto identity = set_.identity();
    return identity.has_value() ? absl::StrCat(identity->model_fingerprint(), "/", identity->numeric_profile()) : "";
  }

  absl::Status CheckRoom() override {
    const std::optional<int> sequences = set_.Full();
    if (!sequences.has_value()) return absl::OkStatus();
    refused_->Add(1);
    return LimitReached(kLimitQueue,
                        absl::StrCat("the queue is full: ", *sequences, " sequences run or wait; try again later"),
                        QueueRetryAfter());
  }

  int sequences_max() const override { return set_.load_max(); }

  int Place(const v1::DecodeRequest& request) override {
    const std::vector<int> order = set_.Order(AffinityKey(request.prompt_ids(), request.cache_salt()), -1, {});
    return order.empty() ? -1 : order.front();
  }

  std::shared_ptr<DecodeCall> Decode(int place, v1::DecodeRequest request, absl::Time deadline,
                                     const TraceContext& trace, std::shared_ptr<DecodeListener> listener) override {
    auto stream =
        std::make_shared<PooledStream>(parts_, place, std::move(request), deadline, trace, std::move(listener));
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

  // Waits until a service is to be asked again: for the interval, or less where somebody waits for it.
  bool PauseBetweenQuestions(int64_t wishes) {
    if (!Pause(std::min(kTick, options_.poll_interval))) return false;
    absl::MutexLock lock(&mutex_);
    const auto wanted = [this, wishes]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return ending_ || wishes_ > wishes; };
    mutex_.AwaitWithTimeout(absl::Condition(&wanted), options_.poll_interval - kTick);
    return !ending_;
  }

  int64_t wishes() {
    absl::MutexLock lock(&mutex_);
    return wishes_;
  }

  void AskNow() {
    absl::MutexLock lock(&mutex_);
    ++wishes_;
  }

  std::vector<std::shared_ptr<PooledStream>> Streams() {
    absl::MutexLock lock(&mutex_);
    return {streams_.begin(), streams_.end()};
  }

  // Gives those of `listed` a place that have none, and a thread of their own: one that hangs must not keep us from
  // hearing of the others.
  void TakeIn(const std::vector<std::string>& listed) {
    const std::vector<std::string> known = set_.addresses();
    bool full = false;
    for (const std::string& address : listed) {
      if (std::find(known.begin(), known.end(), address) != known.end()) continue;
      const int router = set_.Add(address);
      full = full || router < 0;
      if (router < 0) continue;
      const size_t place = static_cast<size_t>(router);
      if (pollers_[place].joinable()) pollers_[place].join();  // of the last one in this place; it has ended
      clients_[place] = RouterClient::Create(address, options_.credentials);
      pollers_[place] = std::thread([this, router, address] { Poll(router, address); });
    }
    if (full && !full_) LogWarning(absl::StrCat("no more than ", set_.size(), " attention services are used"));
    full_ = full;
  }

  bool Listed(const std::string& address) const {
    const std::vector<std::string> listed = peers_->Addresses();
    return std::find(listed.begin(), listed.end(), address) != listed.end();
  }

  void Poll(int router, const std::string& address) {
    int64_t wishes_before = 0;
    do {
      wishes_before = wishes();
      const absl::Duration patience = std::max(options_.hang_timeout, kLatenciesMax * set_.latency(router));
      const absl::Time asked = absl::Now();
      const int running = set_.running(router);
      const auto status = clients_[static_cast<size_t>(router)]->GetStatus(patience);
      if (status.ok()) {
        set_.Report(router, *status, absl::Now() - asked, running);
      } else {
        const bool hangs = absl::IsDeadlineExceeded(status.status());
        set_.SetDown(router, hangs ? absl::UnavailableError(
                                         absl::StrCat("has not answered for ", absl::FormatDuration(patience)))
                                   : status.status());
        if (hangs) {
          for (const auto& stream : Streams()) stream->Leave(router);
        }
      }
      set_.Asked(router, absl::Now());
      // Who is not listed any more, but still there, is used: a name server may be wrong.
      if (!Listed(address) && set_.Retire(router)) {
        LogInfo(absl::StrCat("attention service ", address, " has gone"));
        // Who takes the place next waits for this thread first.
        return clients_[static_cast<size_t>(router)].reset();
      }
    } while (PauseBetweenQuestions(wishes_before));
  }

  void Tick() {
    while (Pause(kTick)) {
      if (peers_->changes()) TakeIn(peers_->Addresses());
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
  const std::unique_ptr<PeerList> peers_;
  RouterSet set_;
  std::vector<std::unique_ptr<RouterClient>> clients_;
  OpenCalls open_;
  std::atomic<bool> stopping_{false};
  const PoolParts parts_;
  Counter* const refused_;
  std::unique_ptr<RouterGauges> gauges_;  // the hook's
  std::unique_ptr<RefreshHook> hook_;
  absl::Mutex mutex_;
  bool ending_ ABSL_GUARDED_BY(mutex_) = false;
  int64_t wishes_ ABSL_GUARDED_BY(mutex_) = 0;  // how often somebody wished that services be asked at once
  std::function<void(bool)> on_change_ ABSL_GUARDED_BY(mutex_);
  std::optional<bool> told_ ABSL_GUARDED_BY(mutex_);                         // what it was told last
  std::set<std::shared_ptr<PooledStream>> streams_ ABSL_GUARDED_BY(mutex_);  // those that are done go at the next tick
  bool full_ = false;                  // the ticker's
  std::vector<std::thread> pollers_;   // [places], started by the ticker
  std::thread ticker_;
};

}  // namespace

std::unique_ptr<RouterPool> RouterPool::Create(const RouterPoolOptions& options, Metrics& metrics) {
  return std::make_unique<RouterPoolImpl>(options, metrics);
}

}  // namespace conclave
