#include "gateway/http/connection.h"

#include <algorithm>
#include <boost/asio/buffer.hpp>
#include <boost/asio/post.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "gateway/http/connection_exchange.h"
#include "gateway/http/error_body.h"
#include "gateway/http/response_text.h"

namespace conclave {
namespace {

namespace asio = boost::asio;

// What is read ahead of the request that is being answered.
constexpr size_t kPipelinedBytesMax = 64 << 10;
// After a refusal the rest of the request is read and dropped for so long, so that the client gets to read the answer:
// closing with unread input would take it away.
constexpr absl::Duration kLingerTime = absl::Seconds(2);
constexpr absl::Duration kLingerTimeAtTheEnd = absl::Milliseconds(200);  // of the process
constexpr int64_t kLingerBytesMax = int64_t{256} << 20;

RequestLimits LimitsOf(const HttpOptions& options) {
  return {options.header_bytes_max, options.headers_max, options.body_bytes_max};
}

std::string AddressOf(const HttpStream::Socket& socket) {
  boost::system::error_code error;
  const auto endpoint = socket.remote_endpoint(error);
  return error ? "" : endpoint.address().to_string(error);
}

}  // namespace

Connection::Connection(std::shared_ptr<ServerCore> core, HttpStream::Socket socket)
    : core_(std::move(core)),
      stream_(std::move(socket), core_->tls == nullptr ? nullptr : core_->tls->current()),
      peer_(AddressOf(stream_.socket())),
      timer_(stream_.socket().get_executor()),
      write_timer_(stream_.socket().get_executor()),
      ping_timer_(stream_.socket().get_executor()) {}

Connection::~Connection() {
  core_->budget.GiveBack(budget_taken_);
  absl::MutexLock lock(&core_->mutex);
  core_->connections.erase(this);
}

void Connection::Start() {
  boost::system::error_code ignored;
  stream_.socket().set_option(asio::ip::tcp::no_delay(true), ignored);
  if (!stream_.has_tls()) return NextRequest();
  phase_ = Phase::kHandshake;
  SetTimer(core_->options.header_timeout);
  stream_.AsyncHandshake([self = shared_from_this()](const ErrorCode& error) {
    if (self->phase_ != Phase::kHandshake) return;
    if (error) return self->Close();
    self->NextRequest();
  });
}

void Connection::StartRefusing() {
  // A handshake for a refusal would be work that overload cannot pay.
  if (stream_.has_tls()) return Close();
  began_ = absl::Now();
  Refuse(ErrorResponse(
      503, absl::StrCat("This server has its ", core_->options.connections_max, " connections open; try again soon.")));
}

void Connection::NextRequest() {
  phase_ = Phase::kIdle;
  reader_.reset();
  if (core_->draining.load() && input_.empty()) return Close();
  SetTimer(core_->options.idle_timeout);
  Advance();
}

void Connection::Read() {
  if (reading_ || input_ended_ || phase_ == Phase::kClosed) return;
  if (phase_ == Phase::kRunning && input_.size() >= kPipelinedBytesMax) return;
  reading_ = true;
  stream_.AsyncRead(asio::buffer(chunk_), [self = shared_from_this()](const ErrorCode& error, size_t bytes) {
    self->reading_ = false;
    self->OnRead(error, bytes);
  });
}

void Connection::OnRead(const ErrorCode& error, size_t bytes) {
  if (phase_ == Phase::kClosed) return;
  if (error) {
    input_ended_ = true;
    // What ends a connection in order may still be followed by our answer; anything else ends it at once.
    if (error != asio::error::eof) return phase_ == Phase::kRunning ? ClientGone() : Close();
    return OnEndOfInput();
  }
  if (phase_ == Phase::kLingering || phase_ == Phase::kRefusing) {
    lingered_bytes_ += static_cast<int64_t>(bytes);
    if (lingered_bytes_ > kLingerBytesMax) return Close();
    return Read();
  }
  input_.append(chunk_.data(), bytes);
  if (phase_ == Phase::kRunning) return Read();
  Advance();
}

void Connection::OnEndOfInput() {
  if (phase_ == Phase::kRefusing) return;
  if (phase_ != Phase::kRunning) return Close();
  // Whoever waits for tokens has gone; a short answer is given even to one who has closed its sending side.
  if (head_.method == "POST") return ClientGone();
}

void Connection::Advance() {
  while (!input_.empty() && (phase_ == Phase::kIdle || phase_ == Phase::kHead || phase_ == Phase::kBody)) {
    if (phase_ == Phase::kIdle) {
      // Empty lines between requests are to be ignored (RFC 9112, section 2.2).
      const size_t begin = std::min(input_.find_first_not_of("\r\n"), input_.size());
      input_.erase(0, begin);
      if (input_.empty()) break;
      phase_ = Phase::kHead;
      began_ = absl::Now();
      reader_.emplace(LimitsOf(core_->options));
      head_checked_ = false;
      context_ = {};
      summary_ = {};
      SetTimer(core_->options.header_timeout);
    }
    input_.erase(0, reader_->Feed(input_));
    const RequestReader::State state = reader_->state();
    if (state == RequestReader::State::kFailed) {
      return Refuse(ErrorResponse(reader_->failure().status, reader_->failure().message));
    }
    if (state == RequestReader::State::kHead) break;
    if (!head_checked_ && !CheckHead()) return;
    if (!CheckBudget()) return;
    if (state == RequestReader::State::kDone) return Dispatch();
    if (state == RequestReader::State::kBody) break;
  }
  Read();
}

bool Connection::CheckHead() {
  head_checked_ = true;
  head_ = reader_->request();
  head_.body.clear();
  context_.peer = peer_;
  std::optional<HttpResponse> refusal = core_->handler.CheckHead(head_, context_);
  summary_.head = &head_;
  if (refusal.has_value()) {
    // A short body has mostly come together with its head. With its body unread, the request is the last one of this
    // connection.
    if (reader_->state() == RequestReader::State::kHeadDone) input_.erase(0, reader_->Feed(input_));
    if (reader_->state() != RequestReader::State::kDone) {
      Refuse(*std::move(refusal));
      return false;
    }
    output_ = std::make_shared<Output>(core_->options.output_bytes_max);
    output_->Respond(*std::move(refusal));
    phase_ = Phase::kRunning;
    timer_.cancel();
    SendOutput(false);
    return false;
  }
  if (reader_->state() == RequestReader::State::kDone) return true;
  phase_ = Phase::kBody;
  SetTimer(core_->options.body_timeout);
  if (head_.expects_continue) Send(std::string(kContinue), After::kNothing);
  return true;
}

bool Connection::CheckBudget() {
  const int64_t bytes = reader_->body_bytes() - budget_taken_;
  if (core_->budget.Take(bytes)) {
    budget_taken_ += bytes;
    return true;
  }
  Refuse(ErrorResponse(503, "This server holds as many request bodies as it has memory for; try again soon."));
  return false;
}

void Connection::Dispatch() {
  phase_ = Phase::kRunning;
  timer_.cancel();
  output_ = std::make_shared<Output>(core_->options.output_bytes_max);
  summary_.body_bytes = static_cast<int64_t>(reader_->request().body.size());
  auto exchange = std::make_shared<ConnectionExchange>(shared_from_this(), core_, output_,
                                                       std::move(reader_->request()), context_, budget_taken_);
  budget_taken_ = 0;
  reader_.reset();
  asio::post(*core_->workers,
             [core = core_, exchange = std::move(exchange)]() mutable { core->handler.Handle(std::move(exchange)); });
  Read();
}

void Connection::Refuse(HttpResponse response) {
  phase_ = Phase::kRefusing;
  timer_.cancel();
  if (output_ != nullptr) output_->Leave();
  output_ = nullptr;
  HeadOptions options;
  options.content_length = response.body.size();
  options.keep_alive = false;
  options.request_id = context_.request_id;
  summary_.status = response.status;
  const bool head_only = head_.method == "HEAD" && head_checked_;
  Send(absl::StrCat(ResponseHead(response, options, absl::Now()), head_only ? "" : response.body), After::kLinger);
  Read();
}

bool Connection::KeepsAlive() const { return head_.keep_alive && !input_ended_ && !core_->draining.load(); }

void Connection::FinishExchange(bool completed) {
  ping_timer_.cancel();
  summary_.context = context_;
  summary_.completed = completed;
  summary_.duration = absl::Now() - began_;
  core_->handler.OnFinished(summary_);
  if (output_ != nullptr) output_->Leave();
  output_ = nullptr;
}

void Connection::ClientGone() {
  const std::function<void()> gone = output_ == nullptr ? nullptr : output_->Leave();
  // Nothing was sent: the log shows it by the number that nginx uses.
  if (summary_.status == 0) summary_.status = 499;
  FinishExchange(false);
  Close();
  if (gone) gone();
}

void Connection::Linger() {
  FinishExchange(true);
  phase_ = Phase::kLingering;
  ErrorCode ignored;
  if (input_ended_) return Close();
  if (stream_.has_tls()) {
    stream_.AsyncShutdown([self = shared_from_this()](const ErrorCode&) { self->Close(); });
  } else {
    stream_.socket().shutdown(asio::ip::tcp::socket::shutdown_send, ignored);
  }
  SetTimer(core_->draining.load() ? kLingerTimeAtTheEnd : kLingerTime);
  Read();
}

void Connection::Close() {
  if (phase_ == Phase::kClosed) return;
  if (phase_ == Phase::kRunning && output_ != nullptr) return ClientGone();
  phase_ = Phase::kClosed;
  timer_.cancel();
  write_timer_.cancel();
  ping_timer_.cancel();
  ErrorCode ignored;
  stream_.socket().close(ignored);
}

void Connection::Wake() {
  asio::post(stream_.socket().get_executor(), [self = shared_from_this()] { self->SendOutput(false); });
}

void Connection::Abort() {
  asio::post(stream_.socket().get_executor(), [self = shared_from_this()] { self->Close(); });
}

void Connection::BeginDrain() {
  asio::post(stream_.socket().get_executor(), [self = shared_from_this()] {
    if (self->phase_ == Phase::kIdle || self->phase_ == Phase::kHandshake) self->Close();
  });
}

}  // namespace conclave
