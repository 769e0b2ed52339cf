#include "moe/transport/nccl/nccl_peer.h"

#include "absl/strings/str_cat.h"
#include "moe/base/limits.h"
#include "moe/base/status_macros.h"
#include "moe/transport/data_plane/wire.h"
#include "moe/transport/validate_call.h"

namespace conclave {
namespace {

// Offsets and ids of the largest call.
constexpr int64_t kMetaBytesMax =
    int64_t{limits::kCallRowsMax + 1} * 4 + int64_t{limits::kCallRowsMax} * limits::kTopKMax * 4 + kBodyAlignment;

int64_t RowsBytes(const WireHeader& call) {
  return static_cast<int64_t>(call.body_bytes) - CallMetaBytes(call.rows, call.pairs);
}

}  // namespace

NcclOffence NcclPeer::Step(absl::Time now, bool on_device) {
  if (const absl::Status pumped = lane_.Pump(); !pumped.ok()) return {pumped};
  if (moving()) {
    absl::Status status = pair_->Poll();
    if (status.ok() && pair_->idle()) status = OnIdle(on_device);
    if (!status.ok()) return {status};
  }
  if (NcclOffence offence = TakeIn(); !offence.why.ok()) return offence;
  if (state_ == State::kOpen && has_next_) {
    std::swap(message_, next_);
    has_next_ = false;
    if (const absl::Status taken = TakeCall(now); !taken.ok()) return {taken};
  }
  if (now < give_up_at_) return {};
  if (state_ == State::kGreeting)
    return {absl::DeadlineExceededError("it did not say who it is"), true, Refusal::kToken};
  return {absl::DeadlineExceededError(state_ == State::kJoining ? "it did not join" : "its rows did not move")};
}

// A router that has its reply may send the next call before the end of that move is seen here; nothing is read beyond.
NcclOffence NcclPeer::TakeIn() {
  if (has_next_) return {};
  const bool greeted = state_ != State::kGreeting;
  const absl::StatusOr<bool> came = lane_.Next(greeted ? kMetaBytesMax : kWireTextBytesMax, &next_);
  if (absl::IsUnavailable(came.status())) return {came.status()};
  if (!came.ok()) return {came.status(), true, Refusal::kMessage};
  if (!*came) return {};
  has_next_ = true;
  if (next_.header.kind != (greeted ? WireKind::kCall : WireKind::kHello)) {
    return {absl::InvalidArgumentError("a message out of turn"), true, Refusal::kMessage};
  }
  if (greeted && (next_.header.connection != connection_ || next_.header.sequence <= last_sequence_)) {
    return {absl::InvalidArgumentError("a call of another connection, or one that came before"), true,
            Refusal::kMessage};
  }
  return {};
}

void NcclPeer::Refuse(const absl::Status& why) {
  WireHeader welcome;
  welcome.kind = WireKind::kWelcome;
  welcome.version = next_.header.version;
  welcome.connection = next_.header.connection;
  welcome.status = static_cast<int32_t>(why.code());
  const std::string text = WireText(why);
  welcome.body_bytes = text.size();
  lane_.Push(welcome, text.data());
}

absl::Status NcclPeer::Welcome(std::string name, const NcclId& id, absl::Time now) {
  peer_.name = std::move(name);
  connection_ = next_.header.connection;
  absl::StatusOr<std::unique_ptr<DeviceStream>> stream = options_.new_stream();
  absl::Status status = stream.status();
  if (status.ok()) {
    absl::StatusOr<std::unique_ptr<NcclPair>> pair =
        NcclPair::Join(*options_.api, *std::move(stream), id, NcclPair::Rank::kShard);
    status = pair.status();
    if (status.ok()) pair_ = *std::move(pair);
  }
  Refuse(status);  // with OK it is the welcome
  has_next_ = false;
  Enter(State::kJoining, now + options_.join_timeout);
  return status;
}

absl::Status NcclPeer::TakeCall(absl::Time now) {
  const WireHeader& call = message_.header;
  last_sequence_ = call.sequence;
  arrival_ = now;
  const int64_t bytes = RowsBytes(call);
  if (bytes == 0) {
    Enter(State::kReady, absl::InfiniteFuture());
    return absl::OkStatus();
  }
  RETURN_IF_ERROR(pair_->device_rows().Reserve(bytes));
  copying_ = false;
  Enter(State::kReceiving, now + options_.move_timeout);
  return pair_->Receive(pair_->device_rows().data(), bytes);
}

// Nothing moves any more: the state's next part.
absl::Status NcclPeer::OnIdle(bool on_device) {
  switch (state_) {
    case State::kJoining:
      RETURN_IF_ERROR(pair_->device_rows().Reserve(kNcclTryBytes));
      Enter(State::kTryingIn, give_up_at_);
      return pair_->Receive(pair_->device_rows().data(), kNcclTryBytes);
    case State::kTryingIn:
      Enter(State::kTryingOut, give_up_at_);
      return pair_->Send(pair_->device_rows().data(), kNcclTryBytes);
    case State::kReceiving:
      if (!on_device && !copying_) {
        const int64_t bytes = RowsBytes(message_.header);
        RETURN_IF_ERROR(pair_->host_rows().Reserve(bytes));
        pair_->stream().CopyOut(pair_->host_rows().data(), pair_->device_rows().data(), bytes);
        pair_->AwaitCopies();
        copying_ = true;
        return absl::OkStatus();
      }
      Enter(State::kReady, absl::InfiniteFuture());
      return absl::OkStatus();
    case State::kTryingOut:
    case State::kAnswering:
      Enter(State::kOpen, absl::InfiniteFuture());
      return absl::OkStatus();
    default:
      return absl::OkStatus();
  }
}

absl::StatusOr<ExpertCall> NcclPeer::Call(bool on_device) const {
  const std::byte* const rows = on_device ? pair_->device_rows().data() : pair_->host_rows().data();
  ASSIGN_OR_RETURN(ExpertCall call, ReadCall(message_.header, message_.payload.data(), rows, /*unpacked=*/nullptr,
                                             CallLimits{}, arrival_));
  if (on_device) call.rows.device = Device::kCuda;
  return call;
}

absl::StatusOr<MatView> NcclPeer::Out(const ExpertCall& call, bool on_device) {
  const DType dtype = call.rows.dtype;
  const int64_t cols = call.rows.cols, bytes = call.pairs() * cols * SizeOf(dtype);
  if (bytes > 0) RETURN_IF_ERROR(pair_->device_results().Reserve(bytes));
  if (on_device) return MatView{pair_->device_results().data(), dtype, Device::kCuda, call.pairs(), cols, cols};
  if (bytes > 0) RETURN_IF_ERROR(pair_->host_results().Reserve(bytes));
  return MatView{pair_->host_results().data(), dtype, Device::kCpu, call.pairs(), cols, cols};
}

absl::Status NcclPeer::Answer(const absl::Status& status, bool on_device, absl::Time now) {
  const std::string text = WireText(status);
  const WireHeader reply = ReplyTo(message_.header, status, static_cast<int64_t>(text.size()));
  lane_.Push(reply, text.data());
  const int64_t bytes = status.ok() ? static_cast<int64_t>(reply.body_bytes) : 0;
  if (bytes == 0) {
    Enter(State::kOpen, absl::InfiniteFuture());
    return absl::OkStatus();
  }
  if (!on_device) {
    pair_->stream().CopyIn(pair_->device_results().data(), pair_->host_results().data(), bytes);
  }
  Enter(State::kAnswering, now + options_.move_timeout);
  return pair_->Send(pair_->device_results().data(), bytes);
}

}  // namespace conclave
