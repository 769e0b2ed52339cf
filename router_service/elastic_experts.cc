#include "router_service/elastic_experts.h"

#include <functional>
#include <set>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "moe/base/check.h"
#include "moe/base/log.h"
#include "moe/base/status_macros.h"
#include "router_service/shard_health.h"

namespace conclave {
namespace {

constexpr absl::Duration kLookPause = absl::Milliseconds(100);
// After an attempt that failed.
constexpr absl::Duration kRetryPause = absl::Seconds(1);

class Impl final : public ElasticExperts {
 public:
  Impl(const PeerList& peers, Connect connect, std::unique_ptr<ShardSet> first, Metrics* metrics)
      : peers_(peers),
        connect_(std::move(connect)),
        metrics_(metrics),
        row_dtype_(first->experts->row_dtype()),
        current_(std::move(first)) {
    if (peers.changes()) thread_ = std::thread([this] { Follow(); });
  }

  ~Impl() override {
    {
      absl::MutexLock lock(&mutex_);
      ending_ = true;
    }
    if (thread_.joinable()) thread_.join();
  }

  DType row_dtype() const override { return row_dtype_; }

  void SetDeadline(absl::Time deadline, absl::Time since) override {
    absl::MutexLock lock(&mutex_);
    deadline_ = deadline;
    since_ = since;
    current_->experts->SetDeadline(deadline, since);
  }
  void AskWhileStalled(std::function<bool()> abandon) override {
    absl::MutexLock lock(&mutex_);
    abandon_ = std::move(abandon);
    current_->experts->AskWhileStalled(abandon_);
  }

  absl::StatusOr<ExpertTicket> Start(LayerId layer, ConstMatView x, const Routing& routing) override {
    absl::StatusOr<ExpertTicket> ticket = Enter().Start(layer, x, routing);
    if (!ticket.ok()) Leave();
    return ticket;
  }

  absl::Status Finish(ExpertTicket ticket, MatView out) override {
    RemoteExperts* experts = nullptr;
    {
      absl::MutexLock lock(&mutex_);
      CONCLAVE_CHECK(in_flight_ > 0) << "ticket " << ticket.id << " is not in flight";
      experts = current_->experts.get();
    }
    absl::Status status = experts->Finish(ticket, out);
    Leave();
    return status;
  }

  std::shared_ptr<const ShardSet> current() const override {
    absl::MutexLock lock(&mutex_);
    return current_;
  }

 private:
  // The pool that is used until the last Leave.
  RemoteExperts& Enter() {
    absl::MutexLock lock(&mutex_);
    if (in_flight_ == 0) TakeNext();
    ++in_flight_;
    return *current_->experts;
  }

  void Leave() {
    absl::MutexLock lock(&mutex_);
    --in_flight_;
  }

  void TakeNext() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (next_ == nullptr) return;
    next_->experts->SetDeadline(deadline_, since_);
    next_->experts->AskWhileStalled(abandon_);
    former_ = std::exchange(current_, std::exchange(next_, nullptr));
  }

  // Waits; false: the pool goes.
  bool Pause(absl::Duration duration) {
    absl::MutexLock lock(&mutex_);
    return !mutex_.AwaitWithTimeout(absl::Condition(&ending_), duration);
  }

  bool Ending() {
    absl::MutexLock lock(&mutex_);
    return ending_;
  }

  void Follow() {
    std::vector<std::string> connected = current()->addresses;
    while (Pause(kLookPause)) {
      const std::vector<std::string> wanted = peers_.Addresses();
      if (wanted.empty() || wanted == connected) continue;
      auto made = connect_(wanted, [&] { return Ending() || peers_.Addresses() != wanted; });
      if (made.ok()) {
        if (Exchange(*std::move(made))) connected = wanted;
      } else if (!absl::IsCancelled(made.status())) {
        LogWarning(absl::StrCat("the new list of expert shards is not used yet: ", made.status().message()));
        if (!Pause(kRetryPause)) return;
      }
    }
  }

  // Puts `next` in the place of the current set once no layer is under way, and takes the former one down. False: the
  // pool goes.
  bool Exchange(std::unique_ptr<ShardSet> next) {
    std::shared_ptr<ShardSet> former;
    {
      absl::MutexLock lock(&mutex_);
      next_ = std::move(next);
      // A busy engine takes it in Enter, an idle one gets it here.
      const auto exchangeable = [this]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) {
        return ending_ || in_flight_ == 0 || next_ == nullptr;
      };
      mutex_.Await(absl::Condition(&exchangeable));
      if (ending_ && next_ != nullptr) return false;
      TakeNext();
      former = std::exchange(former_, nullptr);
    }
    const std::shared_ptr<const ShardSet> now = current();
    LogInfo(absl::StrCat("expert shards in use: ", now->addresses.size(), ", before: ", former->addresses.size()));
    std::set<std::string> gone = NamesOf(*former), kept = NamesOf(*now);
    // Who looks at it now lets it go soon; its connections are to end here, not there.
    while (former.use_count() > 1) absl::SleepFor(absl::Milliseconds(1));
    former = nullptr;
    for (const std::string& name : gone) {
      if (metrics_ != nullptr && kept.count(name) == 0) ForgetShardGauges(name, *metrics_);
    }
    return true;
  }

  static std::set<std::string> NamesOf(const ShardSet& set) {
    std::set<std::string> names;
    for (const ShardFigures& figures : set.experts->shard_figures()) names.insert(figures.name);
    return names;
  }

  const PeerList& peers_;
  const Connect connect_;
  Metrics* const metrics_;
  const DType row_dtype_;

  mutable absl::Mutex mutex_;
  bool ending_ ABSL_GUARDED_BY(mutex_) = false;
  int in_flight_ ABSL_GUARDED_BY(mutex_) = 0;  // tickets, all of current_
  absl::Time deadline_ ABSL_GUARDED_BY(mutex_) = absl::InfiniteFuture();
  absl::Time since_ ABSL_GUARDED_BY(mutex_) = absl::InfiniteFuture();
  std::function<bool()> abandon_ ABSL_GUARDED_BY(mutex_);
  std::shared_ptr<ShardSet> current_ ABSL_GUARDED_BY(mutex_);
  std::shared_ptr<ShardSet> next_ ABSL_GUARDED_BY(mutex_);    // connected, but not used yet
  std::shared_ptr<ShardSet> former_ ABSL_GUARDED_BY(mutex_);  // not used any more, for the thread to take down
  std::thread thread_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<ElasticExperts>> ElasticExperts::Create(const PeerList& peers, Connect connect,
                                                                       absl::Time deadline, Metrics* metrics) {
  while (true) {
    const std::vector<std::string> addresses = peers.Addresses();
    if (addresses.empty()) {
      if (absl::Now() >= deadline) return absl::DeadlineExceededError("no expert shard is listed");
      absl::SleepFor(kLookPause);
      continue;
    }
    auto first = connect(addresses, [&] { return peers.Addresses() != addresses; });
    if (absl::IsCancelled(first.status()) && absl::Now() < deadline) continue;
    RETURN_IF_ERROR(first.status());
    return std::make_unique<Impl>(peers, std::move(connect), *std::move(first), metrics);
  }
}

}  // namespace conclave
