#include "router_service/elastic_experts.h"

#include <algorithm>
#include <array>
#include <functional>
#include <set>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
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

absl::string_view PlaceOf(Device device) { return device == Device::kCpu ? "host" : "device"; }

class Impl final : public ElasticExperts {
 public:
  Impl(const PeerList& peers, Connect connect, std::unique_ptr<ShardSet> first, Metrics* metrics)
      : peers_(peers),
        connect_(std::move(connect)),
        metrics_(metrics),
        row_dtype_(first->experts->row_dtype()),
        row_device_(first->experts->row_device()),
        current_(std::move(first)) {
    current_->experts->AskWhileStalled([this] { return MayLeave(); });
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
  Device row_device() const override { return row_device_; }
  bool works_aside() const override { return true; }

  void SetDeadline(absl::Time deadline, absl::Time since) override {
    absl::MutexLock lock(&mutex_);
    deadline_ = deadline;
    since_ = since;
    current_->experts->SetDeadline(deadline, since);
  }
  void AskWhileStalled(std::function<bool()> abandon) override {
    abandon_ = std::move(abandon);
  }

  void Idle() override {
    Enter()->experts->Idle();
    Leave();
  }

  absl::StatusOr<ExpertTicket> Start(LayerId layer, ConstMatView x, const Routing& routing) override {
    const auto idle = std::find_if(layers_.begin(), layers_.end(), [](const Layer& each) { return each.id == 0; });
    if (idle == layers_.end()) return absl::ResourceExhaustedError("too many tickets are in flight already");
    Layer started{last_ticket_ + 1, layer, x, routing, Enter(), {}};
    absl::StatusOr<ExpertTicket> ticket = started.set->experts->Start(layer, x, routing);
    if (!ticket.ok()) {
      Leave();
      return ticket;
    }
    started.ticket = *ticket;
    *idle = std::move(started);
    return ExpertTicket{++last_ticket_};
  }

  absl::Status Finish(ExpertTicket ticket, MatView out) override {
    const auto found =
        std::find_if(layers_.begin(), layers_.end(), [&](const Layer& each) { return each.id == ticket.id; });
    CONCLAVE_CHECK(ticket.id != 0 && found != layers_.end()) << "ticket " << ticket.id << " is not in flight";
    absl::Status status = FinishOn(*found, out);
    // None of its shards had what is missing, and others are connected by now: it begins again there.
    while (std::exchange(leaves_, false) && absl::IsCancelled(status)) {
      found->set = Change();
      const auto again = found->set->experts->Start(found->layer, found->x, found->routing);
      if (again.ok()) found->ticket = *again;
      status = again.ok() ? FinishOn(*found, out) : again.status();
    }
    *found = Layer{};
    Leave();
    return status;
  }

  std::shared_ptr<const ShardSet> current() const override {
    absl::MutexLock lock(&mutex_);
    return current_;
  }

 private:
  // A layer between Start and Finish.
  struct Layer {
    uint64_t id = 0;  // 0: none
    LayerId layer{0};
    ConstMatView x;
    Routing routing;
    std::shared_ptr<ShardSet> set;  // that it runs on
    ExpertTicket ticket;            // there
  };

  // The set for a layer that begins: that of those under way, else the newest.
  std::shared_ptr<ShardSet> Enter() {
    absl::MutexLock lock(&mutex_);
    if (in_flight_ == 0) TakeNext();
    ++in_flight_;
    return current_;
  }

  // The newest set, also while layers are under way on the former one.
  std::shared_ptr<ShardSet> Change() {
    absl::MutexLock lock(&mutex_);
    TakeNext();
    return current_;
  }

  absl::Status FinishOn(const Layer& layer, MatView out) {
    waited_for_ = layer.set.get();
    leaves_ = false;
    return layer.set->experts->Finish(layer.ticket, out);
  }

  // What a stalled Finish asks, on the engine's thread.
  bool MayLeave() {
    if (abandon_ != nullptr && abandon_()) return true;
    absl::MutexLock lock(&mutex_);
    leaves_ = next_ != nullptr || current_.get() != waited_for_;
    return leaves_;
  }

  void Leave() {
    absl::MutexLock lock(&mutex_);
    --in_flight_;
  }

  void TakeNext() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (next_ == nullptr) return;
    next_->experts->SetDeadline(deadline_, since_);
    next_->experts->AskWhileStalled([this] { return MayLeave(); });
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
      // Whoever uses the pool has rows where the first set wanted them.
      if (made.ok() && (*made)->experts->row_device() != row_device_) {
        made =
            absl::UnavailableError(absl::StrCat("its rows would lie on the ", PlaceOf((*made)->experts->row_device()),
                                                ", those of the shards in use lie on the ", PlaceOf(row_device_)));
      }
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
  const Device row_device_;

  // The engine's thread's.
  std::array<Layer, RemoteExperts::kTicketsMax> layers_;
  uint64_t last_ticket_ = 0;
  std::function<bool()> abandon_;         // null: never
  const ShardSet* waited_for_ = nullptr;  // in Finish
  bool leaves_ = false;                   // MayLeave has said yes, for the next set's sake

  mutable absl::Mutex mutex_;
  bool ending_ ABSL_GUARDED_BY(mutex_) = false;
  int in_flight_ ABSL_GUARDED_BY(mutex_) = 0;  // tickets
  absl::Time deadline_ ABSL_GUARDED_BY(mutex_) = absl::InfiniteFuture();
  absl::Time since_ ABSL_GUARDED_BY(mutex_) = absl::InfiniteFuture();
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
