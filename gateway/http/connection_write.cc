// The timers and the writing half of a connection.
#include <algorithm>
#include <boost/asio/buffer.hpp>
#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "gateway/http/connection.h"
#include "gateway/http/error_body.h"
#include "gateway/http/response_text.h"

namespace conclave {
namespace {

namespace asio = boost::asio;

}  // namespace

void Connection::SetTimer(absl::Duration time) {
  timer_.expires_after(absl::ToChronoNanoseconds(time));
  timer_.async_wait([self = shared_from_this()](const ErrorCode& error) {
    // A timer that was set anew while this call waited in the queue has not expired.
    if (!error && self->timer_.expiry() <= std::chrono::steady_clock::now()) self->OnTimeout();
  });
}

void Connection::OnTimeout() {
  switch (phase_) {
    case Phase::kHead:
      return Refuse(ErrorResponse(408, "The headers of the request did not come in time."));
    case Phase::kBody:
      return Refuse(ErrorResponse(408, "The body of the request did not come in time."));
    case Phase::kHandshake:
    case Phase::kIdle:
    case Phase::kLingering:
      return Close();
    case Phase::kRunning:
    case Phase::kRefusing:
    case Phase::kClosed:
      return;
  }
}

void Connection::SetPingTimer() {
  ping_timer_.expires_after(absl::ToChronoNanoseconds(core_->options.ping_interval));
  ping_timer_.async_wait([self = shared_from_this()](const ErrorCode& error) {
    if (error || self->ping_timer_.expiry() > std::chrono::steady_clock::now()) return;
    self->SendOutput(true);
  });
}

void Connection::SendOutput(bool ping_due) {
  if (phase_ != Phase::kRunning || output_ == nullptr || write_running_) return;
  Output::Piece piece = output_->Take(ping_due);
  if (output_->expects_stream()) SetPingTimer();
  const bool head_only = head_.method == "HEAD";
  HeadOptions options;
  options.keep_alive = KeepsAlive();
  options.request_id = context_.request_id;
  if (piece.whole.has_value()) {
    options.content_length = piece.whole->body.size();
    summary_.status = piece.whole->status;
    if (!options.keep_alive) head_.keep_alive = false;
    return Send(absl::StrCat(ResponseHead(*piece.whole, options, absl::Now()), head_only ? "" : piece.whole->body),
                After::kExchangeEnds);
  }
  std::string bytes;
  if (piece.stream_head.has_value()) {
    chunked_ = !head_.http_1_0;
    if (head_.http_1_0) options.keep_alive = false;
    if (!options.keep_alive) head_.keep_alive = false;
    options.chunked = chunked_;
    summary_.status = piece.stream_head->status;
    summary_.streamed = true;
    bytes = ResponseHead(*piece.stream_head, options, absl::Now());
  }
  stream_bytes_ = static_cast<int64_t>(piece.bytes.size());
  bytes += chunked_ ? ChunkOf(piece.bytes) : piece.bytes;
  if (piece.last && chunked_) absl::StrAppend(&bytes, kLastChunk);
  if (!bytes.empty() || piece.last) Send(std::move(bytes), piece.last ? After::kExchangeEnds : After::kNothing);
}

void Connection::Send(std::string bytes, After after) {
  write_next_ += bytes;
  if (after != After::kNothing) after_ = after;
  if (!write_running_) WriteMore();
}

void Connection::WriteMore() {
  if (phase_ == Phase::kClosed) return;
  if (written_ == writing_.size()) {
    writing_ = std::move(write_next_);
    write_next_.clear();
    written_ = 0;
    if (writing_.empty()) return AfterWrite();
  }
  write_running_ = true;
  SetWriteTimer();
  stream_.AsyncWrite(asio::buffer(writing_.data() + written_, writing_.size() - written_),
                     [self = shared_from_this()](const ErrorCode& error, size_t bytes) {
                       self->write_running_ = false;
                       self->OnWritten(error, bytes);
                     });
}

void Connection::SetWriteTimer() {
  write_timer_.expires_after(absl::ToChronoNanoseconds(core_->options.write_timeout));
  write_timer_.async_wait([self = shared_from_this()](const ErrorCode& error) {
    if (!error && self->write_running_ && self->write_timer_.expiry() <= std::chrono::steady_clock::now()) {
      self->Close();
    }
  });
}

void Connection::OnWritten(const ErrorCode& error, size_t bytes) {
  write_timer_.cancel();
  if (phase_ == Phase::kClosed) return;
  if (error) return Close();
  written_ += bytes;
  summary_.sent_bytes += static_cast<int64_t>(bytes);
  WriteMore();
}

void Connection::AfterWrite() {
  if (output_ != nullptr) output_->Sent(std::exchange(stream_bytes_, 0));
  switch (std::exchange(after_, After::kNothing)) {
    case After::kNothing:
      return SendOutput(false);
    case After::kLinger:
      return Linger();
    case After::kExchangeEnds:
      if (!head_.keep_alive || input_ended_) return Linger();
      FinishExchange(true);
      return NextRequest();
  }
}

}  // namespace conclave
