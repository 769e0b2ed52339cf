#include "moe/transport/ucx/ucx_transport.h"

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "moe/base/log.h"
#include "moe/base/status_macros.h"
#include "moe/tensor/mat_view.h"
#include "moe/tensor/row_format.h"
#include "moe/transport/call_table.h"
#include "moe/transport/copy_rows.h"
#include "moe/transport/data_plane/body_buffer.h"
#include "moe/transport/data_plane/wire.h"
#include "moe/transport/ucx/reply_forecast.h"
#include "moe/transport/ucx/ucx_connection.h"
#include "moe/transport/ucx/ucx_link.h"

namespace conclave {
namespace {

// How long a shard may go on to take in what is on its way of a call that was taken back. One that stands still would
// hold the caller's rows for ever.
constexpr absl::Duration kLetGoTime = absl::Milliseconds(50);

// A call on its way. Kept for its buffers when it is over.
struct Flight {
  uint64_t call_id = 0;
  ShardId shard{0};
  ConstMatView rows;
  RowFormat format = RowFormat::kCompute;
  MatView out;
  OutgoingMessage message;
  BodyBuffer meta;
  BodyBuffer packed;     // the rows, where they are strided or packed
  bool waiting = false;  // for its connection
  bool over = false;     // with `status`; only its message is not idle yet
  absl::Status status;
  absl::Time let_go_by = absl::InfiniteFuture();  // where it is over
  absl::Time sent;
  bool is_long = false;   // it takes longer than anybody spins
  uint64_t received = 0;  // bytes of the reply
  uint64_t reply_checksum = 0;
  WireChecksum checksum;  // of the reply so far; replies of several calls may interleave
};

// out's bytes [offset, offset + count) taken as one run, whatever its stride.
void CopyToRun(const std::byte* from, int64_t offset, int64_t count, MatView out) {
  const int64_t row_bytes = out.cols * SizeOf(out.dtype);
  if (out.stride == out.cols) {
    std::memcpy(static_cast<std::byte*>(out.data) + offset, from, static_cast<size_t>(count));
    return;
  }
  while (count > 0) {
    const int64_t row = offset / row_bytes, within = offset % row_bytes;
    const int64_t part = std::min(count, row_bytes - within);
    std::memcpy(out.RowBytes(row) + within, from, static_cast<size_t>(part));
    from += part, offset += part, count -= part;
  }
}

class Impl final : public UcxTransport {
 public:
  Impl(int shards, std::unique_ptr<DataPlaneClient> control, const UcxTransportOptions& options,
       std::unique_ptr<UcxWorker> worker)
      : options_(options), control_(std::move(control)), worker_(std::move(worker)) {
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
    while (!std::all_of(connections_.begin(), connections_.end(), idle) && absl::Now() < until) worker_->Progress();
    for (auto& connection : connections_) connection->Abandon();
  }

  int shards() const override { return static_cast<int>(connections_.size()); }
  const char* Way(ShardId) const override { return "ucx"; }
  bool Connected(ShardId shard) const override { return connections_[Value(shard)]->open(); }
  absl::Status WhyNot(ShardId shard) const override { return connections_[Value(shard)]->why(); }
  absl::Status LastRefusal(ShardId shard) const override { return connections_[Value(shard)]->last_refusal(); }
  std::string Wires(ShardId shard) const override { return Connected(shard) ? wires_[Value(shard)] : ""; }

  void Call(ShardId shard, const ExpertCall& call, MatView out, ExpertCallDone done) override {
    if (!table_.Add(shard, shards(), call, out, std::move(done))) return;
    const absl::Time now = absl::Now();
    UcxConnection& connection = *connections_[Value(shard)];
    if (connection.down()) StepConnection(shard, now);
    if (connection.down()) return table_.End(call.call_id, connection.why());
    Flight& flight = NewFlight();
    flight.call_id = call.call_id;
    flight.shard = shard;
    flight.out = out;
    Prepare(call, now, flight);
    if (connection.open()) {
      Launch(connection, flight);
    } else {
      flight.waiting = true;
    }
  }

  void Cancel(uint64_t call_id) override {
    const auto at = std::find_if(flights_.begin(), flights_.end(),
                                 [&](const auto& flight) { return flight->call_id == call_id && !flight->over; });
    if (at == flights_.end()) return;
    Flight& flight = **at;
    UcxConnection& connection = *connections_[Value(flight.shard)];
    if (connection.open()) connection.link().Withdraw(&flight.message);
    flight.let_go_by = absl::Now() + kLetGoTime;
    EndFlight(flight, absl::CancelledError("the caller took it back"));
  }

  int Progress(absl::Duration wait) override {
    absl::Time now = absl::Now();
    const absl::Time until = now + std::min(wait, absl::Hours(1));
    for (bool worked = false;;) {
      if (!worked) worker_->Progress();
      const absl::Time due = ServeTimers(now);
      if (const int ran = table_.RunDone(); ran > 0) return ran;
      if (now >= until) return 0;
      worked = Wait(std::min({until, due, table_.EarliestDeadline()}), &now);
    }
  }

 private:
  Flight& NewFlight() {
    if (free_.empty()) free_.push_back(std::make_unique<Flight>());
    flights_.push_back(std::move(free_.back()));
    free_.pop_back();
    Flight& flight = *flights_.back();
    flight.waiting = flight.over = false;
    flight.let_go_by = absl::InfiniteFuture();
    flight.received = 0;
    return flight;
  }

  Flight* FindFlight(uint64_t sequence) {
    for (auto& flight : flights_) {
      if (!flight->waiting && flight->message.header.sequence == sequence) return flight.get();
    }
    return nullptr;
  }

  // What a call in flight has to move until it ends: its request, of which it is not known how far it is, and its reply.
  int64_t BytesMoving(const Flight& flight) const {
    const int64_t reply = flight.out.rows * flight.out.cols * SizeOf(flight.out.dtype);
    if (flight.received > 0) return reply - static_cast<int64_t>(flight.received);
    return reply + static_cast<int64_t>(flight.message.header.body_bytes);
  }

  // Waits for something to come. While shards compute for long, and no reply has begun, it does so asleep: they may
  // want the core. True: UCX has worked meanwhile.
  bool Wait(absl::Time until, absl::Time* now) {
    int64_t bytes_moving = 0;
    int computing = 0, others = 0;
    for (const auto& flight : flights_) {
      if (flight->over || flight->waiting) continue;
      const bool computes = flight->is_long && flight->message.idle() && flight->received == 0;
      ++(computes ? computing : others);
      if (!computes) bytes_moving += BytesMoving(*flight);
    }
    if (computing == 0 || others > 0) return worker_->Wait(until, bytes_moving, now);
    worker_->Block(until, now);
    return false;
  }

  // Everything of the message but what the connection decides.
  void Prepare(const ExpertCall& call, absl::Time now, Flight& flight) {
    OutgoingMessage& message = flight.message;
    message = OutgoingMessage{};
    DescribeCall(call, now, &message.header);
    message.meta_bytes = CallMetaBytes(call.rows.rows, call.pairs());
    flight.meta.Reserve(message.meta_bytes);
    WriteCallMeta(call, flight.meta.data());
    message.meta = flight.meta.data();
    flight.rows = call.rows;
    flight.format = call.format;
  }

  // Where the message's rows lie, in one piece.
  void PlaceRows(bool packed, Flight& flight) {
    OutgoingMessage& message = flight.message;
    const ConstMatView& rows = flight.rows;
    message.rows = static_cast<const std::byte*>(rows.data);
    if (packed) {
      MarkPacked(&message.header);
      flight.packed.Reserve(rows.rows * Fp8RowBytes(rows.cols));
      PackFp8(rows, flight.packed.data());
    } else if (rows.stride != rows.cols && rows.rows > 1) {
      flight.packed.Reserve(rows.rows * rows.cols * SizeOf(rows.dtype));
      CopyRows(rows, MatView{flight.packed.data(), rows.dtype, Device::kCpu, rows.rows, rows.cols, rows.cols});
    } else {
      return;
    }
    message.rows = flight.packed.data();
  }

  void Launch(UcxConnection& connection, Flight& flight) {
    flight.waiting = false;
    OutgoingMessage& message = flight.message;
    connection.Stamp(&message.header);
    PlaceRows(flight.format == RowFormat::kFp8 && connection.TakesPacked(), flight);
    message.header.sequence = ++last_sequence_;  // counts up in the order of sending
    if (options_.checksum) {
      message.header.flags |= kWireChecksummed;
      request_checksum_.Begin(message.header);
      request_checksum_.Add(message.meta, message.meta_bytes);
      request_checksum_.Add(message.rows, static_cast<int64_t>(message.header.body_bytes) - message.meta_bytes);
      message.header.checksum = request_checksum_.Digest();
    }
    flight.sent = absl::Now();
    flight.is_long = forecasts_[Value(flight.shard)].AtLeast(message.header.pairs) >
                     worker_->spin_longest() + UcxWorker::MoveTime(BytesMoving(flight));
    connection.link().Push(&message);
  }

  // The flight's call is over. Its Done becomes due once UCX has let go of its rows.
  void EndFlight(Flight& flight, absl::Status status) {
    flight.over = true;
    flight.status = std::move(status);
    if (!flight.message.idle()) {
      table_.Detach(flight.call_id);
      return;
    }
    table_.End(flight.call_id, std::move(flight.status));
    Free(flight);
  }

  void Free(Flight& flight) {
    const auto at = std::find_if(flights_.begin(), flights_.end(), [&](const auto& f) { return f.get() == &flight; });
    flight.meta.Trim();
    flight.packed.Trim();
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
    for (size_t i = 0; i < flights_.size(); ++i) {
      if (flights_[i]->waiting && flights_[i]->shard == shard) Launch(connection, *flights_[i]);
    }
  }

  int EndShard(ShardId shard, const absl::Status& why) {
    int ended = 0;
    for (size_t i = flights_.size(); i-- > 0;) {
      Flight& flight = *flights_[i];
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
      Flight& flight = *flights_[i];
      if (!flight.over) continue;
      if (flight.message.idle()) {
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

  void Expire(Flight& flight) {
    const ShardId shard = flight.shard;
    UcxConnection& connection = *connections_[Value(shard)];
    const absl::Status late =
        absl::DeadlineExceededError(absl::StrCat("shard ", Value(shard), " did not answer within the deadline"));
    if (!flight.message.idle() && !(connection.open() && connection.link().Withdraw(&flight.message))) {
      connection.Break(absl::UnavailableError("it takes no more messages"));
    }
    EndFlight(flight, late);
  }

  static ucs_status_t OnActiveMessage(void* self, const void* header, size_t header_bytes, void* data, size_t bytes,
                                      const ucp_am_recv_param_t* parameters) {
    // We send everything eagerly; whoever does not is no shard of ours.
    if ((parameters->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV) != 0) return UCS_OK;
    WireHeader fragment;
    const auto* begin = static_cast<const std::byte*>(header);
    if (!ReadFragment(absl::MakeConstSpan(begin, header_bytes), static_cast<int64_t>(bytes), &fragment).ok()) {
      LogDebug("ucx: a message that makes no sense was dropped");
      return UCS_OK;
    }
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
    Flight* flight = fragment.kind == WireKind::kReply ? FindFlight(fragment.sequence) : nullptr;
    // Late, or a duplicate, or from a shard that was not asked: nobody's.
    if (flight == nullptr || flight->over || !connections_[Value(flight->shard)]->Owns(fragment)) return;
    absl::StatusOr<bool> whole = AcceptReply(fragment, data, bytes, *flight);
    if (!whole.ok()) {
      EndFlight(*flight, std::move(whole).status());
    } else if (*whole) {
      absl::Status status = StatusOf(fragment, text);
      if (status.ok() && fragment.pairs > 0) {
        forecasts_[Value(flight->shard)].Took(fragment.pairs, absl::Now() - flight->sent);
      }
      EndFlight(*flight, std::move(status));
    }
  }

  // Whether the reply is whole. DATA_LOSS: it is not the reply to this call, or was damaged.
  absl::StatusOr<bool> AcceptReply(const WireHeader& fragment, const std::byte* data, int64_t bytes, Flight& flight) {
    const WireHeader& asked = flight.message.header;
    if (fragment.call_id != asked.call_id || fragment.rows != asked.rows || fragment.pairs != asked.pairs ||
        fragment.cols != asked.cols || fragment.dtype != asked.dtype || fragment.flags != asked.flags) {
      return absl::DataLossError(absl::StrCat("reply: [", fragment.pairs, ", ", fragment.cols, "] instead of [",
                                              asked.pairs, ", ", asked.cols, "], or of another call"));
    }
    if (fragment.offset != flight.received || (fragment.offset > 0 && fragment.checksum != flight.reply_checksum)) {
      return absl::DataLossError(absl::StrCat("reply: bytes from ", fragment.offset, " on where those from ",
                                              flight.received, " on come next"));
    }
    const bool checked = (fragment.flags & kWireChecksummed) != 0;
    if (fragment.offset == 0) flight.reply_checksum = fragment.checksum;
    if (checked && fragment.offset == 0) flight.checksum.Begin(fragment);
    if (fragment.status == 0) CopyToRun(data, static_cast<int64_t>(fragment.offset), bytes, flight.out);
    if (checked) flight.checksum.Add(data, bytes);
    flight.received += static_cast<uint64_t>(bytes);
    if (flight.received < fragment.body_bytes) return false;
    if (checked && flight.checksum.Digest() != fragment.checksum) {
      return absl::DataLossError(
          absl::StrCat("shard ", Value(flight.shard), ": the checksum of its reply does not fit"));
    }
    return true;
  }

  const UcxTransportOptions options_;
  const std::unique_ptr<DataPlaneClient> control_;
  const std::unique_ptr<UcxWorker> worker_;
  CallTable table_;
  uint64_t last_sequence_ = 0;
  WireChecksum request_checksum_;
  std::vector<std::unique_ptr<Flight>> flights_, free_;
  std::vector<std::string> wires_;
  std::vector<ReplyForecast> forecasts_;  // [shards]
  std::vector<std::unique_ptr<UcxConnection>> connections_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<UcxTransport>> NewUcxTransport(int shards, std::unique_ptr<DataPlaneClient> control,
                                                              const UcxTransportOptions& options) {
  ASSIGN_OR_RETURN(auto worker, UcxWorker::Create(options.worker));
  return std::unique_ptr<UcxTransport>(std::make_unique<Impl>(shards, std::move(control), options, std::move(worker)));
}

}  // namespace conclave
