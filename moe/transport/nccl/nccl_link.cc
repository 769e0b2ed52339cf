#include "moe/transport/nccl/nccl_link.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "moe/base/status_macros.h"
#include "moe/transport/copy_rows.h"
#include "moe/transport/data_plane/socket_address.h"
#include "moe/transport/data_plane/wire.h"

namespace conclave {
namespace {

// How often an answer over the control channel, which no socket of ours tells, is looked for.
constexpr absl::Duration kAnswerPoll = absl::Milliseconds(1);

absl::Status OutOfTurn(const WireHeader& header) {
  return absl::InternalError(
      absl::StrCat("a message out of turn (kind ", static_cast<int>(header.kind), ", sequence ", header.sequence, ")"));
}

DType DTypeOf(const WireHeader& call) { return call.dtype == 1 ? DType::kBF16 : DType::kF32; }

}  // namespace

NcclLink::~NcclLink() {
  if (lands_) AwaitLanding().IgnoreError();
  LetGoOfRows();
  reaper_.Take(std::move(pair_));
}

void NcclLink::Ask(absl::Time now) {
  DataPlaneRequest request;
  request.peer = options_.name;
  request.version_min = kWireVersionMin;
  request.version_max = kWireVersion;
  request.model_fingerprint = options_.model_fingerprint;
  request.numeric_profile = options_.numeric_profile;
  request.placement_epoch = options_.placement_epoch;
  request.nccl_version = options_.api->version;
  request.gpu = options_.gpu;
  request.instance = options_.instance;
  control_.Ask(shard_, request);
  Enter(State::kAsking, now + options_.connect_timeout);
}

absl::Status NcclLink::Greet(const DataPlaneOffer& offer) {
  if (offer.token.size() != static_cast<size_t>(kTokenBytes) || offer.nccl_id.size() != sizeof(id_)) {
    return absl::InternalError(
        absl::StrCat("offered a token of ", offer.token.size(), " bytes and an id of ", offer.nccl_id.size()));
  }
  if (offer.version < kWireVersionMin || offer.version > kWireVersion) {
    return absl::InternalError(absl::StrCat("offered version ", offer.version, " of the activation protocol"));
  }
  version_ = static_cast<uint8_t>(offer.version);
  std::memcpy(&id_, offer.nccl_id.data(), sizeof(id_));
  connection_ = offer.connection;
  ASSIGN_OR_RETURN(const SocketAddress address, SocketAddress::Parse(offer.address));
  ASSIGN_OR_RETURN(lane_, Lane::Connect(address));
  WireHeader hello;
  hello.kind = WireKind::kHello;
  hello.version = version_;
  hello.connection = connection_;
  hello.body_bytes = offer.token.size();
  lane_->Push(hello, offer.token.data());
  Enter(State::kGreeting, give_up_at_);
  return absl::OkStatus();
}

// Room for a call's rows and results, and for as much as there has been on earlier pairs.
absl::Status NcclLink::Reserve(int64_t rows_bytes, int64_t results_bytes) {
  rows_bytes_max_ = std::max(rows_bytes_max_, rows_bytes);
  results_bytes_max_ = std::max(results_bytes_max_, results_bytes);
  RETURN_IF_ERROR(pair_->host_rows().Reserve(rows_bytes_max_));
  RETURN_IF_ERROR(pair_->device_rows().Reserve(rows_bytes_max_));
  RETURN_IF_ERROR(pair_->host_results().Reserve(results_bytes_max_));
  return pair_->device_results().Reserve(results_bytes_max_);
}

// What goes out comes back as it was, or the way cannot be trusted with rows.
absl::Status NcclLink::TryOut() {
  RETURN_IF_ERROR(Reserve(kNcclTryBytes, kNcclTryBytes));
  for (int64_t i = 0; i < kNcclTryBytes; ++i) {
    pair_->host_rows().data()[i] = static_cast<std::byte>((connection_ + 1) * (2 * i + 1));
  }
  pair_->stream().CopyIn(pair_->device_rows().data(), pair_->host_rows().data(), kNcclTryBytes);
  Enter(State::kTryingOut, give_up_at_);
  return pair_->Send(pair_->device_rows().data(), kNcclTryBytes);
}

// Nothing moves any more: the state's next part.
absl::Status NcclLink::OnIdle() {
  switch (state_) {
    case State::kJoining:
      return TryOut();
    case State::kTryingOut:
      copying_ = false;
      Enter(State::kTryingBack, give_up_at_);
      return pair_->Receive(pair_->device_results().data(), kNcclTryBytes);
    case State::kSending:
      Enter(State::kAwaiting, absl::InfiniteFuture());
      return absl::OkStatus();
    case State::kTryingBack:
    case State::kReceiving:
      break;
    default:
      return absl::OkStatus();
  }
  if (!copying_) {
    Fetch();
    return absl::OkStatus();
  }
  const bool trying = state_ == State::kTryingBack;
  Enter(State::kOpen, absl::InfiniteFuture());
  if (lands_) {
    EndLanding(absl::OkStatus());
    return absl::OkStatus();
  }
  if (!trying) {
    const int64_t cols = call_.cols;
    answered_(call_.call_id, absl::OkStatus(),
              MatView{pair_->host_results().data(), DTypeOf(call_), Device::kCpu, call_.pairs, cols, cols});
    return absl::OkStatus();
  }
  if (std::memcmp(pair_->host_results().data(), pair_->host_rows().data(), kNcclTryBytes) != 0) {
    return absl::DataLossError("nccl does not bring back what it took out: do the GPUs reach each other's memory?");
  }
  backoff_ = options_.backoff_min;
  return absl::OkStatus();
}

// Brings what has arrived on the device to the host: into the caller's memory, where that is pinned.
void NcclLink::Fetch() {
  copying_ = true;
  void* to = pair_->host_results().data();
  int64_t bytes = kNcclTryBytes;
  if (state_ == State::kReceiving) {
    bytes = int64_t{call_.pairs} * call_.cols * SizeOf(DTypeOf(call_));
    const MatView wanted = landing_(call_.call_id, pair_->stream());
    lands_ = wanted.data != nullptr;
    if (lands_) to = wanted.data;
    if (wanted.device == Device::kCuda) {
      pair_->stream().CopyWithin(to, pair_->device_results().data(), bytes);
      return pair_->AwaitCopies();
    }
  }
  pair_->stream().CopyOut(to, pair_->device_results().data(), bytes);
  pair_->AwaitCopies();
}

// Until the copy into the caller's memory, which waits for no peer, has ended.
absl::Status NcclLink::AwaitLanding() { return pair_->stream().Await(); }

void NcclLink::EndLanding(const absl::Status& status) {
  if (!std::exchange(lands_, false)) return;
  const absl::Status landed = AwaitLanding();
  answered_(call_.call_id, landed.ok() ? status : landed, MatView{});
}

absl::Status NcclLink::OnMessage(absl::Time now) {
  const WireHeader& header = message_.header;
  if (header.connection != connection_) return OutOfTurn(header);
  if (state_ == State::kGreeting && header.kind == WireKind::kWelcome) {
    RETURN_IF_ERROR(StatusOf(header, message_.text()));
    ASSIGN_OR_RETURN(auto stream, options_.new_stream());
    ASSIGN_OR_RETURN(pair_, NcclPair::Join(*options_.api, std::move(stream), id_, NcclPair::Rank::kRouter));
    ASSIGN_OR_RETURN(rows_read_, pair_->stream().NewEvent());
    Enter(State::kJoining, give_up_at_);
    return absl::OkStatus();
  }
  const bool expected = (state_ == State::kSending || state_ == State::kAwaiting) && !reply_here_;
  if (!expected || header.kind != WireKind::kReply || header.sequence != call_.sequence ||
      header.call_id != call_.call_id) {
    return OutOfTurn(header);
  }
  reply_here_ = true;
  return absl::OkStatus();
}

absl::Status NcclLink::OnReply(absl::Time now) {
  reply_here_ = false;
  const WireHeader& header = message_.header;
  if (header.status == 0 && (header.rows != call_.rows || header.pairs != call_.pairs || header.cols != call_.cols ||
                             header.dtype != call_.dtype)) {
    return absl::InternalError("a reply of another shape than its call's");
  }
  const int64_t bytes = header.status == 0 ? static_cast<int64_t>(header.body_bytes) : 0;
  if (bytes == 0) {
    Enter(State::kOpen, absl::InfiniteFuture());
    answered_(call_.call_id, StatusOf(header, message_.text()), MatView{});
    return absl::OkStatus();
  }
  copying_ = false;
  Enter(State::kReceiving, now + options_.move_timeout);
  return pair_->Receive(pair_->device_results().data(), bytes);
}

absl::Status NcclLink::Progressed(absl::Time now) {
  RETURN_IF_ERROR(std::exchange(send_failure_, absl::OkStatus()));
  if (state_ == State::kAsking) {
    if (const auto answer = control_.Answer(shard_); answer.has_value()) {
      RETURN_IF_ERROR(answer->status());
      RETURN_IF_ERROR(Greet(**answer));
    }
  }
  if (pair_ != nullptr && state_ != State::kOpen && state_ != State::kAwaiting) {
    RETURN_IF_ERROR(pair_->Poll());
    if (pair_->idle()) RETURN_IF_ERROR(OnIdle());
  }
  if (lane_ != nullptr) {
    RETURN_IF_ERROR(lane_->Pump());
    while (!reply_here_) {
      const absl::StatusOr<bool> came = lane_->Next(kWireTextBytesMax, &message_);
      // Where both ends find the pair broken, NCCL says more than the lane's end.
      if (!came.ok() && pair_ != nullptr) RETURN_IF_ERROR(pair_->Poll());
      RETURN_IF_ERROR(came.status());
      if (!*came) break;
      RETURN_IF_ERROR(OnMessage(now));
    }
  }
  if (reply_here_ && state_ == State::kAwaiting) RETURN_IF_ERROR(OnReply(now));
  if (now < give_up_at_) return absl::OkStatus();
  if (open()) return absl::DeadlineExceededError("rows that both ends had put on their way did not arrive");
  return absl::DeadlineExceededError(
      absl::StrCat("no connection within ", absl::FormatDuration(options_.connect_timeout),
                   pair_ != nullptr && !pair_->joined() ? ": nccl is still joining" : ""));
}

bool NcclLink::Step(absl::Time now) {
  if (state_ == State::kDown) {
    if (now >= retry_at_) Ask(now);
    return false;
  }
  const absl::Status status = Progressed(now);
  if (!status.ok()) Fail(status, now);
  return !status.ok();
}

void NcclLink::Send(const ExpertCall& call, absl::Time now) {
  call_ = WireHeader{};
  DescribeCall(call, now, &call_);
  call_.version = version_;
  call_.connection = connection_;
  call_.sequence = ++last_sequence_;
  meta_.resize(static_cast<size_t>(CallMetaBytes(call.rows.rows, call.pairs())));
  WriteCallMeta(call, meta_.data());
  reply_here_ = false;
  const int64_t cols = call.rows.cols, bytes = call.rows.rows * cols * SizeOf(call.rows.dtype);
  Enter(State::kSending, now + options_.move_timeout);
  // Before the shard knows of the call, so that it has no move under way that an allocation could wait for.
  send_failure_ = Reserve(bytes, call.pairs() * cols * SizeOf(call.rows.dtype));
  if (!send_failure_.ok()) return;
  lane_->Push(call_, meta_.data());
  if (bytes == 0) return Enter(State::kAwaiting, absl::InfiniteFuture());
  if (call.rows.device == Device::kCuda) {
    if (call.ready != nullptr) pair_->stream().WaitFor(*call.ready);
    pair_->stream().CopyWithin(pair_->device_rows().data(), call.rows.data, bytes);
    pair_->stream().Record(*rows_read_);
    send_failure_ = pair_->Send(pair_->device_rows().data(), bytes);
    return;
  }
  const void* from = pair_->host_rows().data();
  if (call.rows.stride == cols && pair_->stream().Pinned(call.rows.data)) {
    from = call.rows.data;
  } else {
    CopyRows(call.rows, MatView{pair_->host_rows().data(), call.rows.dtype, Device::kCpu, call.rows.rows, cols, cols});
  }
  pair_->stream().CopyIn(pair_->device_rows().data(), from, bytes);
  send_failure_ = pair_->Send(pair_->device_rows().data(), bytes);
}

void NcclLink::LetGoOfRows() {
  if (pair_ == nullptr || rows_read_ == nullptr) return;
  absl::StatusOr<bool> read = rows_read_->Done();
  while (read.ok() && !*read) {
    // Where streams have no engine of their own, work goes on while somebody asks.
    if (const absl::StatusOr<bool> idle = pair_->stream().Idle(); !idle.ok()) return;
    read = rows_read_->Done();
  }
}

void NcclLink::Fail(const absl::Status& why, absl::Time now) {
  why_ = absl::UnavailableError(absl::StrCat("shard ", Value(shard_), " over nccl: ", std::string(why.message())));
  EndLanding(why_);
  LetGoOfRows();
  reaper_.Take(std::move(pair_));
  lane_.reset();
  reply_here_ = false;
  Enter(State::kDown, absl::InfiniteFuture());
  retry_at_ = now + backoff_;
  backoff_ = std::min(backoff_ * 2, options_.backoff_max);
}

absl::Time NcclLink::due(absl::Time now) const {
  if (state_ == State::kDown) return retry_at_;
  if (state_ == State::kAsking) return std::min(give_up_at_, now + kAnswerPoll);
  return give_up_at_;
}

}  // namespace conclave
