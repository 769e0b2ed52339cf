#include "moe/transport/ucx/ucx_transport.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "moe/base/log.h"
#include "moe/base/status_macros.h"
#include "moe/kernels/accelerator/device_stream.h"
#include "moe/kernels/accelerator/pinned_memory.h"
#include "moe/tensor/buffer.h"
#include "moe/tensor/mat_view.h"
#include "moe/tensor/row_format.h"
#include "moe/transport/call_table.h"
#include "moe/transport/data_plane/wire.h"
#include "moe/transport/ucx/reply_forecast.h"
#include "moe/transport/ucx/ucx_connection.h"
#include "moe/transport/ucx/ucx_flight.h"
#include "moe/transport/ucx/ucx_link.h"

namespace conclave {
namespace {

// How long a shard may go on to take in what is on its way of a call that was taken back. One that stands still would
// hold the caller's rows for ever.
constexpr absl::Duration kLetGoTime = absl::Milliseconds(50);

// Looks at results on their way from another device, where UCX does not tell of their end.
constexpr absl::Duration kFetchLook = absl::Milliseconds(1);

class Impl final : public UcxTransport {
 public:
  Impl(int shards, std::unique_ptr<DataPlaneClient> control, const UcxTransportOptions& options,
       std::shared_ptr<DeviceStream> stream, std::unique_ptr<UcxWorker> worker)
      : options_(options),
        control_(std::move(control)),
        stream_(std::move(stream)),
        worker_(std::move(worker)),
        table_(rows_device()) {
    for (int i = 0; i < shards; ++i) {
      connections_.push_back(std::make_unique<UcxConnection>(ShardId{i}, options_, *control_, *worker_));
    }
    wires_.resize(connections_.size());
    forecasts_.resize(connections_.size());
    ucp_am_handler_param_t handler = {};
    handler.field_mask = UCP_AM_HANDLER_PARAM_FIELD_ID | UCP_AM_HANDLER_PARAM_FIELD_FLAGS |
                         UCP_AM_HANDLER_PARAM_FIELD_CB | UCP_AM_HANDLER_PARAM_FIELD_ARG;
    handler.id = kWireActiveMessage;
    handler.flags = UCP_AM_FLAG_WHOLE_MSG;
    handler.cb = &Impl::OnActiveMessage;
    handler.arg = this;
    ucp_worker_set_am_recv_handler(worker_->handle(), &handler);
  }

  ~Impl() override {
    for (auto& connection : connections_) connection->Shutdown();
    const absl::Time until = absl::Now() + absl::Seconds(2);
    const auto idle = [](const auto& connection) { return connection->idle(); };
    const auto fetching = [](const auto& flight) { return flight->fetch.moving(); };
    while ((!std::all_of(connections_.begin(), connections_.end(), idle) ||
            std::any_of(flights_.begin(), flights_.end(), fetching)) &&
           absl::Now() < until) {
      worker_->Progress();
    }
    for (auto& connection : connections_) connection->Abandon();
    for (auto& flight : flights_) {
      if (flight->fetch.moving()) [[maybe_unused]] UcxFlight* const left = flight.release();
    }
  }

  int shards() const override { return static_cast<int>(connections_.size()); }
  const char* Way(ShardId) const override { return "ucx"; }
  bool Connected(ShardId shard) const override { return connections_[Value(shard)]->open(); }
  absl::Status WhyNot(ShardId shard) const override { return connections_[Value(shard)]->why(); }
  absl::Status LastRefusal(ShardId shard) const override { return connections_[Value(shard)]->last_refusal(); }
  std::string Wires(ShardId shard) const override {
    return Connected(shard) ? absl::StrCat(wires_[Value(shard)], HowRowsGo(*connections_[Value(shard)])) : "";
  }
  Device rows_device() const override {
    return stream_ != nullptr && worker_->device_rows() ? Device::kCuda : Device::kCpu;
  }

  void Call(ShardId shard, const ExpertCall& call, MatView out, ExpertCallDone done) override {
    const uint64_t id = call.call_id;
    if (!table_.Add(shard, shards(), call, out, std::move(done))) return;
    if (call.rows.device == Device::kCuda && (call.rows.stride != call.rows.cols || out.stride != out.cols)) {
      return table_.End(id, absl::InvalidArgumentError("rows: on the device they lie without gaps"));
    }
    const absl::Time now = absl::Now();
    UcxConnection& connection = *connections_[Value(shard)];
    if (connection.down()) StepConnection(shard, now);
    if (connection.down()) return table_.End(call.call_id, connection.why());
    UcxFlight& flight = NewFlight();
    flight.Begin(shard, call, out, now);
    flight.waiting = true;
    if (connection.open()) LaunchWhenReady(connection, flight);
  }

  void Cancel(uint64_t call_id) override {
    const auto at = std::find_if(flights_.begin(), flights_.end(),
                                 [&](const auto& flight) { return flight->call_id == call_id && !flight->over; });
    if (at == flights_.end()) return;
    UcxFlight& flight = **at;
    TakeBack(flight);
    flight.let_go_by = absl::Now() + kLetGoTime;
    EndFlight(flight, absl::CancelledError("the caller took it back"));
  }

  int Progress(absl::Duration wait) override {
    absl::Time now = absl::Now();
    const absl::Time until = now + std::min(wait, absl::Hours(1));
    if (stream_ != nullptr) stream_->MakeCurrent();
    for (bool worked = false;;) {
      if (!worked) worker_->Progress();
      const absl::Time due = ServeTimers(now);
      if (const int ran = table_.RunDone(); ran > 0) return ran;
      if (now >= until) return 0;
      worked = Wait(std::min({until, due, table_.EarliestDeadline()}), &now);
    }
  }

 private:
  UcxFlight& NewFlight() {
    if (free_.empty()) free_.push_back(std::make_unique<UcxFlight>(staging_memory_));
    flights_.push_back(std::move(free_.back()));
    free_.pop_back();
    return *flights_.back();
  }

  UcxFlight* FindFlight(uint64_t sequence) {
    for (auto& flight : flights_) {
      if (!flight->waiting && flight->message.header.sequence == sequence) return flight.get();
    }
    return nullptr;
  }

  // Waits for something to come. While shards compute for long, and no reply has begun, it does so asleep: they may
  // want the core. True: UCX has worked meanwhile.
  bool Wait(absl::Time until, absl::Time* now) {
    int64_t bytes_moving = 0;
    int computing = 0, others = 0;
    for (const auto& flight : flights_) {
      if (flight->over || flight->waiting) continue;
      const bool computes = flight->is_long && flight->idle() && flight->received == 0;
      ++(computes ? computing : others);
      if (!computes) bytes_moving += flight->bytes_moving();
    }
    if (computing == 0 || others > 0) return worker_->Wait(until, bytes_moving, now);
    worker_->Block(until, now);
    return false;
  }

  // How rows of this process's device reach the shard's; empty: there is none.
  std::string HowRowsGo(const UcxConnection& connection) const {
    if (stream_ == nullptr) return "";
    if (connection.device_rows()) return ", device memory";
    return absl::StrCat(", staged through pinned memory, since ",
                        worker_->device_rows() ? connection.why_no_device_rows() : "this UCX was built without CUDA");
  }

  // Sends the call, unless its rows are not complete yet: it then goes on waiting.
  void LaunchWhenReady(UcxConnection& connection, UcxFlight& flight) {
    absl::StatusOr<bool> complete = flight.ready != nullptr ? flight.ready->Done() : true;
    if (complete.ok() && !*complete) return;
    absl::Status status = complete.status();
    if (status.ok() && flight.on_device() && !connection.device_rows()) status = flight.Stage(*stream_);
    flight.waiting = false;
    if (!status.ok()) return EndFlight(flight, status);
    Launch(connection, flight);
  }

  void Launch(UcxConnection& connection, UcxFlight& flight) {
    OutgoingMessage& message = flight.message;
    connection.Stamp(&message.header);
    if (flight.on_device()) message.header.flags |= kWireDeviceRows;
    flight.PlaceRows(flight.format == RowFormat::kFp8 && !flight.on_device() && !flight.staged());
    message.header.sequence = ++last_sequence_;  // counts up in the order of sending
    if (options_.checksum) message.header.flags |= kWireChecksummed;
    flight.sent = absl::Now();
    flight.is_long = forecasts_[Value(flight.shard)].AtLeast(message.header.pairs) >
                     worker_->spin_longest() + UcxWorker::MoveTime(flight.bytes_moving());
    connection.link().Push(&message);
  }

  // Takes the message back, as far as that is possible. A shard may fetch offered rows however late, so that only those
  // whose memory stays are let go of without it: that it may read something else then harms nobody, for the call is
  // over.
  void TakeBack(UcxFlight& flight) {
    UcxConnection& connection = *connections_[Value(flight.shard)];
    if (!connection.open() || connection.link().Withdraw(&flight.message)) return;
    if (flight.rows_stay) connection.link().LetGo(&flight.message);
  }

  // The flight's call is over. Its Done becomes due once UCX has let go of its rows.
  void EndFlight(UcxFlight& flight, absl::Status status) {
    if (flight.staged()) {
      const absl::Status landed = flight.Land(status.ok(), *stream_);
      if (status.ok()) status = landed;
    }
    flight.over = true;
    flight.status = std::move(status);
    if (!flight.idle()) {
      table_.Detach(flight.call_id);
      return;
    }
    table_.End(flight.call_id, std::move(flight.status));
    Free(flight);
  }

  void Free(UcxFlight& flight) {
    const auto at = std::find_if(flights_.begin(), flights_.end(), [&](const auto& f) { return f.get() == &flight; });
    flight.meta.Trim();
    flight.packed.Trim();
    flight.staged_out.Trim();
    free_.push_back(std::move(*at));
    if (at + 1 != flights_.end()) *at = std::move(flights_.back());
    flights_.pop_back();
  }

  void StepConnection(ShardId shard, absl::Time now) {
    UcxConnection& connection = *connections_[Value(shard)];
    const bool was_open = connection.open();
    if (connection.Step(now)) {
      const int lost = EndShard(shard, connection.why());
      // A shard that stays away is reported once per lost call at most, not at each attempt.
      if (lost > 0) LogWarning(connection.why().message());
    } else if (!was_open && connection.open()) {
      OnOpen(shard);
    }
  }

  void OnOpen(ShardId shard) {
    UcxConnection& connection = *connections_[Value(shard)];
    wires_[Value(shard)] = connection.link().InspectWires();
    connection.OnInspected(options_.worker.device_memory == UcxDeviceMemory::kPretend);
    for (size_t i = 0; i < flights_.size(); ++i) {
      if (flights_[i]->waiting && flights_[i]->shard == shard) LaunchWhenReady(connection, *flights_[i]);
    }
  }

  int EndShard(ShardId shard, const absl::Status& why) {
    int ended = 0;
    for (size_t i = flights_.size(); i-- > 0;) {
      UcxFlight& flight = *flights_[i];
      if (flight.shard != shard || flight.over) continue;
      EndFlight(flight, why);
      ++ended;
    }
    return ended;
  }

  // Works on connections, ends calls whose time has come, frees what UCX has let go of. Returns when the next such
  // thing is due.
  absl::Time ServeTimers(absl::Time now) {
    absl::Time due = absl::InfiniteFuture();
    for (int i = 0; i < shards(); ++i) {
      StepConnection(ShardId{i}, now);
      due = std::min(due, connections_[i]->due(now));
    }
    for (size_t i = flights_.size(); i-- > 0;) {
      UcxFlight& flight = *flights_[i];
      if (!flight.over) {
        due = std::min(due, Look(flight, now));
        continue;
      }
      if (flight.idle()) {
        table_.End(flight.call_id, std::move(flight.status));
        Free(flight);
      } else if (now >= flight.let_go_by) {
        flight.let_go_by = absl::InfiniteFuture();
        connections_[Value(flight.shard)]->Break(absl::UnavailableError("it takes no more messages"));
        due = now;
      } else {
        due = std::min(due, flight.let_go_by);
      }
    }
    if (table_.EarliestDeadline() > now) return due;
    for (size_t i = flights_.size(); i-- > 0;) {
      const CallTable::Pending* pending = flights_[i]->over ? nullptr : table_.Find(flights_[i]->call_id);
      if (pending != nullptr && pending->deadline <= now) Expire(*flights_[i]);
    }
    return std::min(due, now);  // connections that were given up are to be seen to
  }

  // When a call in flight is to be looked at again, though nothing comes.
  absl::Time Look(UcxFlight& flight, absl::Time now) {
    if (flight.fetch.moving()) return now + kFetchLook;
    UcxConnection& connection = *connections_[Value(flight.shard)];
    if (!flight.waiting || !connection.open()) return absl::InfiniteFuture();
    LaunchWhenReady(connection, flight);
    return now;
  }

  void Expire(UcxFlight& flight) {
    const ShardId shard = flight.shard;
    UcxConnection& connection = *connections_[Value(shard)];
    flight.let_go_by = absl::Now() + kLetGoTime;  // of results that are being fetched
    const absl::Status late =
        absl::DeadlineExceededError(absl::StrCat("shard ", Value(shard), " did not answer within the deadline"));
    TakeBack(flight);
    if (!flight.message.idle()) {
      connection.Break(absl::UnavailableError("it takes no more messages"));
    }
    EndFlight(flight, late);
  }

  static ucs_status_t OnActiveMessage(void* self, const void* header, size_t header_bytes, void* data, size_t bytes,
                                      const ucp_am_recv_param_t* parameters) {
    const bool offered = (parameters->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV) != 0;
    WireHeader fragment;
    const auto* begin = static_cast<const std::byte*>(header);
    if (!ReadFragment(absl::MakeConstSpan(begin, header_bytes), static_cast<int64_t>(bytes), &fragment).ok()) {
      LogDebug("ucx: a message that makes no sense was dropped");
      return UCS_OK;
    }
    if (offered) return static_cast<Impl*>(self)->OnOffer(fragment, data, static_cast<int64_t>(bytes));
    static_cast<Impl*>(self)->OnFragment(fragment, static_cast<const std::byte*>(data), static_cast<int64_t>(bytes));
    return UCS_OK;
  }

  void OnFragment(const WireHeader& fragment, const std::byte* data, int64_t bytes) {
    const absl::string_view text(reinterpret_cast<const char*>(data), static_cast<size_t>(bytes));
    if (fragment.kind == WireKind::kWelcome) {
      for (auto& connection : connections_) {
        if (connection->Owns(fragment)) connection->OnWelcome(fragment, text);
      }
      return;
    }
    UcxFlight* const flight = FlightOf(fragment);
    if (flight == nullptr || flight->fetch.moving()) return;
    absl::StatusOr<bool> whole = flight->Accept(fragment, data, bytes, stream_.get());
    if (!whole.ok()) {
      EndFlight(*flight, std::move(whole).status());
    } else if (*whole) {
      EndReplied(*flight, StatusOf(fragment, text));
    }
  }

  // The call that a reply answers. Null: nobody's, being late, or a duplicate, or from a shard that was not asked.
  UcxFlight* FlightOf(const WireHeader& fragment) {
    UcxFlight* const flight = fragment.kind == WireKind::kReply ? FindFlight(fragment.sequence) : nullptr;
    const bool ours = flight != nullptr && !flight->over && connections_[Value(flight->shard)]->Owns(fragment);
    return ours ? flight : nullptr;
  }

  void EndReplied(UcxFlight& flight, absl::Status status) {
    const int64_t pairs = flight.message.header.pairs;
    if (status.ok() && pairs > 0) forecasts_[Value(flight.shard)].Took(pairs, absl::Now() - flight.sent);
    EndFlight(flight, std::move(status));
  }

  // Results that lie on the shard's device. They are fetched where they are wanted; else UCX lets the shard know.
  ucs_status_t OnOffer(const WireHeader& fragment, void* offer, int64_t bytes) {
    UcxFlight* const flight = FlightOf(fragment);
    if (flight == nullptr) return UCS_OK;
    if (absl::Status accepted = flight->AcceptOffer(fragment, bytes); !accepted.ok()) {
      EndFlight(*flight, std::move(accepted));
      return UCS_OK;
    }
    flight->fetch.Start(*worker_, offer, flight->out.data, bytes, [this, flight] {
      if (!flight->over) EndReplied(*flight, flight->fetch.status());
    });
    return UCS_INPROGRESS;
  }

  const UcxTransportOptions options_;
  const std::unique_ptr<DataPlaneClient> control_;
  const std::shared_ptr<DeviceStream> stream_;  // of copies to and from this process's device; null: there is none
  const HostMemory staging_memory_ = stream_ == nullptr ? HostMemory() : PinnedMemory(stream_);
  const std::unique_ptr<UcxWorker> worker_;
  CallTable table_;
  uint64_t last_sequence_ = 0;
  std::vector<std::unique_ptr<UcxFlight>> flights_, free_;
  std::vector<std::string> wires_;
  std::vector<ReplyForecast> forecasts_;  // [shards]
  std::vector<std::unique_ptr<UcxConnection>> connections_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<UcxTransport>> NewUcxTransport(int shards, std::unique_ptr<DataPlaneClient> control,
                                                              const UcxTransportOptions& options) {
  std::shared_ptr<DeviceStream> stream;
  UcxWorkerOptions worker_options = options.worker;
  if (options.new_stream) {
    ASSIGN_OR_RETURN(stream, options.new_stream());
    stream->MakeCurrent();
    if (worker_options.device_memory == UcxDeviceMemory::kNone) worker_options.device_memory = UcxDeviceMemory::kCuda;
  }
  ASSIGN_OR_RETURN(auto worker, UcxWorker::Create(worker_options));
  return std::unique_ptr<UcxTransport>(
      std::make_unique<Impl>(shards, std::move(control), options, std::move(stream), std::move(worker)));
}

}  // namespace conclave
