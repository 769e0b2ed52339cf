// A connected socket with or without TLS, behind one face. Private to the server: it brings Asio with it.
#ifndef CONCLAVE_GATEWAY_HTTP_STREAM_H_
#define CONCLAVE_GATEWAY_HTTP_STREAM_H_

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ssl/context.hpp>
#include <boost/asio/ssl/stream.hpp>
#include <boost/asio/strand.hpp>
#include <memory>
#include <utility>

namespace conclave {

// Used on the strand of its socket alone. At most one read and one write at a time.
class HttpStream {
 public:
  using Socket = boost::asio::ip::tcp::socket;

  // `tls` may be null: a plain connection.
  HttpStream(Socket socket, std::shared_ptr<boost::asio::ssl::context> tls)
      : socket_(std::move(socket)), context_(std::move(tls)) {
    if (context_ != nullptr) tls_ = std::make_unique<boost::asio::ssl::stream<Socket&>>(socket_, *context_);
  }

  Socket& socket() { return socket_; }
  bool has_tls() const { return tls_ != nullptr; }

  // REQUIRES: has_tls()
  template <typename Handler>
  void AsyncHandshake(Handler&& handler) {
    tls_->async_handshake(boost::asio::ssl::stream_base::server, std::forward<Handler>(handler));
  }
  // Says that nothing follows, and waits for the client to say so too. REQUIRES: has_tls()
  template <typename Handler>
  void AsyncShutdown(Handler&& handler) {
    tls_->async_shutdown(std::forward<Handler>(handler));
  }
  template <typename Buffer, typename Handler>
  void AsyncRead(const Buffer& buffer, Handler&& handler) {
    if (tls_ != nullptr) return tls_->async_read_some(buffer, std::forward<Handler>(handler));
    socket_.async_read_some(buffer, std::forward<Handler>(handler));
  }
  template <typename Buffer, typename Handler>
  void AsyncWrite(const Buffer& buffer, Handler&& handler) {
    if (tls_ != nullptr) return tls_->async_write_some(buffer, std::forward<Handler>(handler));
    socket_.async_write_some(buffer, std::forward<Handler>(handler));
  }

 private:
  Socket socket_;
  const std::shared_ptr<boost::asio::ssl::context> context_;
  std::unique_ptr<boost::asio::ssl::stream<Socket&>> tls_;
};

}  // namespace conclave

#endif  // CONCLAVE_GATEWAY_HTTP_STREAM_H_
