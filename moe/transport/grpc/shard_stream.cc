#include "moe/transport/grpc/shard_stream.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "moe/transport/grpc/expert_channel.h"
#include "moe/transport/grpc/expert_codec.h"

namespace conclave {
namespace {

constexpr char kExchangeMethod[] = "/conclave.v1.ExpertService/Exchange";

}  // namespace

ShardStream::ShardStream(ShardId shard, const std::string& address, const GrpcTransportOptions& options,
                         grpc::CompletionQueue& queue, Listener& listener)
    : shard_(shard),
      address_(address),
      options_(options),
      queue_(queue),
      listener_(listener),
      stub_(NewExpertChannel(address, kExpertMessageBytesMax, options.credentials)),
      started_{this, &ShardStream::OnStarted},
      read_{this, &ShardStream::OnRead},
      written_{this, &ShardStream::OnWritten},
      finished_{this, &ShardStream::OnFinished},
      backoff_(options.backoff_min) {}

absl::Status ShardStream::Unavailable(absl::string_view reason) const {
  return absl::UnavailableError(absl::StrCat("shard ", Value(shard_), " at ", address_, ": ", reason));
}

void ShardStream::OpenIfDue(absl::Time now) {
  if (state_ == State::kDown && !shut_down_ && now >= retry_at_) Open();
}

void ShardStream::Open() {
  silent_expiries_ = 0;
  wire_ = std::make_unique<Wire>();
  wire_->context.AddMetadata(kPeerNameKey, options_.name);
  if (!options_.model_fingerprint.empty()) wire_->context.AddMetadata(kModelFingerprintKey, options_.model_fingerprint);
  if (!options_.numeric_profile.empty()) wire_->context.AddMetadata(kNumericProfileKey, options_.numeric_profile);
  wire_->stream = stub_.PrepareCall(&wire_->context, kExchangeMethod, &queue_);
  state_ = State::kStarting;
  wire_->stream->StartCall(&started_);
}

bool ShardStream::Send(uint64_t call_id, grpc::ByteBuffer message, absl::Time now) {
  OpenIfDue(now);
  if (state_ == State::kDown || state_ == State::kClosing) return false;
  outgoing_.push_back({call_id, std::move(message)});
  if (state_ == State::kOpen && !writing_) WriteNext();
  return true;
}

void ShardStream::Forget(uint64_t call_id) {
  const auto begin = outgoing_.begin() + (writing_ ? 1 : 0);
  outgoing_.erase(std::remove_if(begin, outgoing_.end(), [&](const Outgoing& o) { return o.call_id == call_id; }),
                  outgoing_.end());
}

void ShardStream::OnExpired(uint64_t call_id) {
  Forget(call_id);
  // Cancelling ends what is pending, and so the stream.
  if (++silent_expiries_ >= kSilentExpiriesMax && state_ == State::kOpen) wire_->context.TryCancel();
}

void ShardStream::Shutdown() {
  shut_down_ = true;
  if (wire_ != nullptr) wire_->context.TryCancel();
}

void ShardStream::WriteNext() {
  if (outgoing_.empty()) return;
  writing_ = true;
  wire_->stream->Write(outgoing_.front().message, &written_);
}

// Finish may only be asked for when no other operation is pending. A stream that broke ends them by itself, and is
// not cancelled: Finish then tells what the shard said.
void ShardStream::Close() {
  if (state_ != State::kClosing) {
    state_ = State::kClosing;
    why_ = Unavailable("the stream broke");
  }
  if (!reading_ && !writing_) wire_->stream->Finish(&wire_->status, &finished_);
}

void ShardStream::OnStarted(bool ok) {
  if (!ok) return Close();
  state_ = State::kOpen;
  reading_ = true;
  wire_->stream->Read(&wire_->incoming, &read_);
  WriteNext();
}

void ShardStream::OnRead(bool ok) {
  reading_ = false;
  if (!ok || state_ == State::kClosing) return Close();
  silent_expiries_ = 0;
  backoff_ = options_.backoff_min;
  if (!listener_.OnMessage(shard_, wire_->incoming)) {
    wire_->context.TryCancel();
    return Close();
  }
  reading_ = true;
  wire_->stream->Read(&wire_->incoming, &read_);
}

void ShardStream::OnWritten(bool ok) {
  writing_ = false;
  outgoing_.pop_front();
  if (!ok || state_ == State::kClosing) return Close();
  WriteNext();
}

void ShardStream::OnFinished(bool) {
  const grpc::Status& status = wire_->status;
  const std::string reason =
      status.ok() ? "closed by the shard" : absl::StrCat("stream broke: ", status.error_message());
  why_ = Unavailable(reason);
  wire_.reset();
  outgoing_.clear();
  state_ = State::kDown;
  retry_at_ = absl::Now() + backoff_;
  backoff_ = std::min(backoff_ * 2, options_.backoff_max);
  listener_.OnDown(shard_, why_);
}

}  // namespace conclave
