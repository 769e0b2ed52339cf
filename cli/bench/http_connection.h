// One connection of an HTTP client, for one exchange after the other.
#ifndef CONCLAVE_CLI_BENCH_HTTP_CONNECTION_H_
#define CONCLAVE_CLI_BENCH_HTTP_CONNECTION_H_

#include <boost/asio/io_context.hpp>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "cli/bench/http_endpoint.h"

namespace conclave {

// The beginning of an answer.
struct HttpHead {
  int status = 0;
  std::optional<absl::Duration> retry_after;  // of retry-after-ms, or Retry-After in seconds
};

// What is told of an exchange, in this order; on_done once, whatever happens.
struct HttpObserver {
  std::function<void(const HttpHead&)> on_head;
  std::function<void(absl::string_view)> on_body;  // as it arrives, without the framing of chunks
  // OK: the whole answer came. UNAVAILABLE: no connection, or it was lost; DEADLINE_EXCEEDED: `timeout`; CANCELLED.
  std::function<void(const absl::Status&)> on_done;
};

// Lives on the thread of its io_context. Kept by shared pointers: its own until on_done has returned.
class HttpConnection {
 public:
  // `endpoint` must outlive it. Nothing is connected yet.
  static std::shared_ptr<HttpConnection> Create(boost::asio::io_context& context, const HttpEndpoint& endpoint);
  virtual ~HttpConnection() = default;
  // Sends `request`, all of its bytes, connecting first where need be. A connection that the server closed while
  // nothing ran on it is opened again. REQUIRES: no exchange runs
  virtual void Exchange(std::string request, absl::Duration timeout, HttpObserver observer) = 0;
  // Whether another exchange may follow on the connection that stands.
  virtual bool reusable() const = 0;
  // Ends the exchange, if one runs.
  virtual void Cancel() = 0;
};

}  // namespace conclave

#endif  // CONCLAVE_CLI_BENCH_HTTP_CONNECTION_H_
