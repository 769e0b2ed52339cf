#include "moe/transport/nccl/nccl_transport.h"

#include <poll.h>

#include <algorithm>
#include <deque>
#include <random>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "moe/base/log.h"
#include "moe/transport/call_table.h"
#include "moe/transport/copy_rows.h"
#include "moe/transport/nccl/nccl_link.h"
#include "moe/transport/nccl/nccl_pair.h"

namespace conclave {
namespace {

// How long a call's reply is looked for without sleeping: a shard's small call is over before a thread has woken up.
constexpr absl::Duration kSpin = absl::Microseconds(200);

NcclTransportOptions WithInstance(NcclTransportOptions options) {
  std::random_device device;
  while (options.instance == 0) options.instance = uint64_t{device()} << 32 | device();
  return options;
}

class Impl final : public NcclTransport {
 public:
  Impl(int shards, std::unique_ptr<DataPlaneClient> control, const NcclTransportOptions& options)
      : options_(WithInstance(options)), control_(std::move(control)), waiting_(shards) {
    for (int i = 0; i < shards; ++i) {
      links_.push_back(std::make_unique<NcclLink>(ShardId{i}, options_, *control_, reaper_,
                                                  [this](uint64_t call_id, const absl::Status& status,
                                                         ConstMatView rows) { OnAnswer(call_id, status, rows); },
                                                  [this](uint64_t call_id, const DeviceStream& stream) {
                                                    return Land(call_id, stream);
                                                  }));
    }
  }

  int shards() const override { return static_cast<int>(links_.size()); }
  const char* Way(ShardId) const override { return "nccl"; }
  Device rows_device() const override { return Device::kCuda; }
  bool MayFreeDeviceMemory() const override {
    return std::none_of(links_.begin(), links_.end(), [](const auto& link) { return link->moving(); });
  }
  bool Connected(ShardId shard) const override { return links_[Value(shard)]->open(); }
  absl::Status WhyNot(ShardId shard) const override { return links_[Value(shard)]->why(); }

  void Call(ShardId shard, const ExpertCall& call, MatView out, ExpertCallDone done) override {
    const uint64_t id = call.call_id;
    if (!table_.Add(shard, shards(), call, out, std::move(done))) return;
    if (call.rows.device == Device::kCuda && (call.rows.stride != call.rows.cols || out.stride != out.cols)) {
      return table_.End(id, absl::InvalidArgumentError("rows: on the device they lie without gaps"));
    }
    const absl::Time now = absl::Now();
    NcclLink& link = *links_[Value(shard)];
    if (link.down()) StepLink(shard, now);
    if (link.down()) return table_.End(call.call_id, link.why());
    waiting_[Value(shard)].push_back(call);
    SendNext(shard, now);
  }

  // The reply, if on its way, finds no call and is dropped. One that lands has the caller's memory for the moment.
  void Cancel(uint64_t call_id) override {
    const bool lands = std::any_of(links_.begin(), links_.end(),
                                   [call_id](const auto& link) { return link->landing(call_id); });
    if (lands || table_.Find(call_id) == nullptr) return;
    LetGoOfRows();
    table_.End(call_id, absl::CancelledError("the caller took it back"));
  }

  int Progress(absl::Duration wait) override {
    absl::Time now = absl::Now();
    const absl::Time until = now + std::min(wait, absl::Hours(1));
    absl::Time sleep_from = now + kSpin;
    while (true) {
      bool moving = false;
      absl::Time due = until;
      for (int i = 0; i < shards(); ++i) {
        StepLink(ShardId{i}, now);
        SendNext(ShardId{i}, now);
        moving = moving || links_[i]->moving();
        due = std::min(due, links_[i]->due(now));
      }
      if (table_.EarliestDeadline() <= now) LetGoOfRows();
      table_.EndExpired(now);
      if (const int ran = table_.RunDone(); ran > 0) return ran;
      if (now >= until) return 0;
      const bool spin = moving || (table_.in_flight() > 0 && now < sleep_from);
      if (!spin) Sleep(std::min(due, table_.EarliestDeadline()) - now);
      now = absl::Now();
      if (!spin) sleep_from = now + kSpin;
    }
  }

 private:
  // Until something comes over a lane, or `duration` has passed.
  void Sleep(absl::Duration duration) {
    polled_.clear();
    for (const auto& link : links_) {
      if (link->lane() == nullptr) continue;
      polled_.push_back(
          {link->lane()->socket(), static_cast<short>(POLLIN | (link->lane()->sending() ? POLLOUT : 0)), 0});
    }
    const timespec timeout = absl::ToTimespec(std::max(duration, absl::ZeroDuration()));
    ppoll(polled_.data(), polled_.size(), &timeout, nullptr);
  }

  void StepLink(ShardId shard, absl::Time now) {
    NcclLink& link = *links_[Value(shard)];
    const bool was_open = link.open();
    if (!link.Step(now)) {
      if (!was_open && link.open()) LogInfo(absl::StrCat("shard ", Value(shard), ": activations over nccl"));
      return;
    }
    waiting_[Value(shard)].clear();
    // A shard that stays away is reported once per lost call at most, not at each attempt.
    if (table_.EndShard(shard, link.why()) > 0) LogWarning(link.why().message());
  }

  // Calls are about to end whose rows may be read yet.
  void LetGoOfRows() {
    for (const auto& link : links_) link->LetGoOfRows();
  }

  // The next call that somebody still waits for. Its memory is good until it has ended.
  void SendNext(ShardId shard, absl::Time now) {
    std::deque<ExpertCall>& calls = waiting_[Value(shard)];
    while (!calls.empty() && links_[Value(shard)]->ready()) {
      const ExpertCall call = calls.front();
      calls.pop_front();
      if (table_.Find(call.call_id) != nullptr) links_[Value(shard)]->Send(call, now);
    }
  }

  // From here to its answer neither deadline nor shard end the call.
  MatView Land(uint64_t call_id, const DeviceStream& stream) {
    const CallTable::Pending* const pending = table_.Find(call_id);
    if (pending == nullptr || pending->out.stride != pending->out.cols) return {};
    if (pending->out.device == Device::kCpu && !stream.Pinned(pending->out.data)) return {};
    const MatView out = pending->out;
    table_.Detach(call_id);
    return out;
  }

  // Rows that landed are where they are wanted.
  void OnAnswer(uint64_t call_id, const absl::Status& status, ConstMatView rows) {
    const CallTable::Pending* const pending = table_.Find(call_id);
    if (pending == nullptr) return;
    if (status.ok() && rows.rows > 0) CopyRows(rows, pending->out);
    table_.End(call_id, status);
  }

  const NcclTransportOptions options_;
  const std::unique_ptr<DataPlaneClient> control_;
  NcclReaper reaper_;
  std::vector<std::unique_ptr<NcclLink>> links_;
  std::vector<std::deque<ExpertCall>> waiting_;  // by shard, oldest first; some may have ended
  std::vector<pollfd> polled_;
  CallTable table_{Device::kCuda};
};

}  // namespace

std::unique_ptr<NcclTransport> NewNcclTransport(int shards, std::unique_ptr<DataPlaneClient> control,
                                                const NcclTransportOptions& options) {
  return std::make_unique<Impl>(shards, std::move(control), options);
}

}  // namespace conclave
