#include "cli/bench/http_connection.h"

#include <boost/asio/connect.hpp>
#include <boost/asio/ip/address.hpp>
#include <boost/asio/ssl/host_name_verification.hpp>
#include <boost/asio/ssl/stream.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http/buffer_body.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/read.hpp>
#include <cstdint>
#include <limits>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace conclave {
namespace {

namespace asio = boost::asio;
namespace http = boost::beast::http;
using asio::ip::tcp;
using boost::system::error_code;
using TlsStream = asio::ssl::stream<tcp::socket>;

constexpr size_t kReadBytes = 16 << 10;

tcp::socket& SocketOf(tcp::socket& stream) { return stream; }
tcp::socket& SocketOf(TlsStream& stream) { return stream.next_layer(); }

template <typename Stream>
std::unique_ptr<Stream> NewStream(asio::io_context& context, const HttpEndpoint& endpoint) {
  if constexpr (std::is_same_v<Stream, TlsStream>) {
    auto stream = std::make_unique<TlsStream>(context, *endpoint.tls);
    stream->set_verify_callback(asio::ssl::host_name_verification(endpoint.server_name));
    error_code not_an_address;
    asio::ip::make_address(endpoint.server_name, not_an_address);
    if (not_an_address) SSL_set_tlsext_host_name(stream->native_handle(), endpoint.server_name.c_str());
    return stream;
  } else {
    return std::make_unique<tcp::socket>(context);
  }
}

HttpHead HeadOf(const http::response_header<>& header) {
  HttpHead head;
  head.status = static_cast<int>(header.result_int());
  const auto number = [&header](const char* name) -> std::optional<double> {
    double value = 0;
    const auto text = header[name];
    if (!absl::SimpleAtod({text.data(), text.size()}, &value) || !(value >= 0)) return std::nullopt;
    return value;
  };
  if (const auto milliseconds = number("retry-after-ms"); milliseconds.has_value()) {
    head.retry_after = absl::Milliseconds(*milliseconds);
  } else if (const auto seconds = number("retry-after"); seconds.has_value()) {
    head.retry_after = absl::Seconds(*seconds);
  }
  return head;
}

template <typename Stream>
class Connection final : public HttpConnection, public std::enable_shared_from_this<Connection<Stream>> {
 public:
  Connection(asio::io_context& context, const HttpEndpoint& endpoint)
      : context_(context), endpoint_(endpoint), deadline_(context) {}

  void Exchange(std::string request, absl::Duration timeout, HttpObserver observer) override {
    request_ = std::move(request);
    observer_ = std::move(observer);
    ended_early_ = absl::OkStatus();
    deadline_.expires_after(absl::ToChronoNanoseconds(timeout));
    deadline_.async_wait([self = this->shared_from_this(), timeout, number = ++exchanges_](const error_code& error) {
      if (!error && number == self->exchanges_)
        self->End(absl::DeadlineExceededError(absl::StrCat("no end within ", absl::FormatDuration(timeout))));
    });
    was_open_ = stream_ != nullptr;
    if (was_open_) {
      Write();
    } else {
      Connect();
    }
  }

  bool reusable() const override { return stream_ != nullptr; }
  void Cancel() override { End(absl::CancelledError("cut off")); }

 private:
  using Parser = http::response_parser<http::buffer_body>;

  void Connect() {
    was_open_ = false;
    stream_ = NewStream<Stream>(context_, endpoint_);
    asio::async_connect(SocketOf(*stream_), endpoint_.addresses,
                        [self = this->shared_from_this()](const error_code& error, const tcp::endpoint&) {
                          if (error) return self->Done("no connection", error);
                          error_code ignored;
                          SocketOf(*self->stream_).set_option(tcp::no_delay(true), ignored);
                          self->Handshake();
                        });
  }

  void Handshake() {
    if constexpr (std::is_same_v<Stream, TlsStream>) {
      stream_->async_handshake(asio::ssl::stream_base::client,
                               [self = this->shared_from_this()](const error_code& error) {
                                 if (error) return self->Done("the TLS handshake failed", error);
                                 self->Write();
                               });
    } else {
      Write();
    }
  }

  void Write() {
    asio::async_write(*stream_, asio::buffer(request_),
                      [self = this->shared_from_this()](const error_code& error, size_t) {
                        // An answer may have come all the same, such as a refusal of a body that is too long.
                        if (error && self->was_open_) return self->Reconnect(error);
                        self->ReadHead();
                      });
  }

  void ReadHead() {
    parser_.emplace();
    parser_->body_limit(std::numeric_limits<uint64_t>::max());
    buffer_.clear();
    http::async_read_header(*stream_, buffer_, *parser_,
                            [self = this->shared_from_this()](const error_code& error, size_t bytes) {
                              if (error && self->was_open_ && bytes == 0) return self->Reconnect(error);
                              if (error) return self->Done("the connection was lost before the answer", error);
                              self->observer_.on_head(HeadOf(self->parser_->get().base()));
                              self->ReadBody();
                            });
  }

  void ReadBody() {
    if (parser_->is_done()) return Done("", {});
    parser_->get().body().data = read_;
    parser_->get().body().size = sizeof(read_);
    http::async_read_some(*stream_, buffer_, *parser_, [self = this->shared_from_this()](error_code error, size_t) {
      if (error == http::error::need_buffer) error = {};
      const size_t bytes = kReadBytes - self->parser_->get().body().size;
      if (bytes > 0) self->observer_.on_body({self->read_, bytes});
      if (error) return self->Done("the connection was lost within the answer", error);
      self->ReadBody();
    });
  }

  // What the server closed in the meantime is no failure of this request.
  void Reconnect(const error_code& error) {
    if (!ended_early_.ok()) return Done("", error);
    Connect();
  }

  // Makes whatever is waited for fail.
  void End(const absl::Status& why) {
    if (stream_ == nullptr || !observer_.on_done) return;
    ended_early_ = why;
    error_code ignored;
    SocketOf(*stream_).close(ignored);
  }

  void Done(absl::string_view what, const error_code& error) {
    deadline_.cancel();
    absl::Status status = ended_early_;
    if (status.ok() && error) status = absl::UnavailableError(absl::StrCat(what, ": ", error.message()));
    if (!status.ok() || !parser_->keep_alive()) stream_ = nullptr;
    const HttpObserver observer = std::exchange(observer_, {});
    observer.on_done(status);
  }

  asio::io_context& context_;
  const HttpEndpoint& endpoint_;
  asio::steady_timer deadline_;
  std::unique_ptr<Stream> stream_;
  boost::beast::flat_buffer buffer_;
  std::optional<Parser> parser_;
  char read_[kReadBytes];
  std::string request_;
  HttpObserver observer_;
  absl::Status ended_early_;  // why, where it was not the server
  int64_t exchanges_ = 0;     // so far
  bool was_open_ = false;     // the exchange began on a connection that stood already
};

}  // namespace

std::shared_ptr<HttpConnection> HttpConnection::Create(asio::io_context& context, const HttpEndpoint& endpoint) {
  if (endpoint.tls != nullptr) return std::make_shared<Connection<TlsStream>>(context, endpoint);
  return std::make_shared<Connection<tcp::socket>>(context, endpoint);
}

}  // namespace conclave
