// An HTTP/1.1 server with a limit on everything: bytes, counts, times, connections, and what a slow reader may hold.
#ifndef CONCLAVE_GATEWAY_HTTP_SERVER_H_
#define CONCLAVE_GATEWAY_HTTP_SERVER_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "gateway/http/exchange.h"
#include "gateway/http/http_options.h"
#include "moe/metrics/metrics.h"

namespace conclave {

// Life: Listen (binds; clients wait in the kernel's queue) → Start (threads) → Drain → destruction.
class HttpServer {
 public:
  // `handler` must outlive it. REQUIRES: options.Validate() is OK and options.address is not empty. INVALID_ARGUMENT
  // names the flag; UNAVAILABLE names a port in use. metrics: must outlive it; null: nobody hears of its certificate.
  static absl::StatusOr<std::unique_ptr<HttpServer>> Listen(const HttpOptions& options, HttpHandler& handler,
                                                            Metrics* metrics = nullptr);
  // Closes every connection, which counts as the client's leaving, and waits for its threads.
  virtual ~HttpServer() = default;

  virtual void Start() = 0;
  // host:port as bound.
  virtual std::string address() const = 0;
  virtual int connections() const = 0;
  // Accepts nobody any more, closes idle connections and the others after their answer; returns when the last has
  // gone (true) or at the deadline.
  virtual bool Drain(absl::Time deadline) = 0;
};

}  // namespace conclave

#endif  // CONCLAVE_GATEWAY_HTTP_SERVER_H_
