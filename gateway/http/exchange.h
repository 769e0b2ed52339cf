// The seam between the server, which knows sockets, and what answers requests, which knows their meaning.
#ifndef CONCLAVE_GATEWAY_HTTP_EXCHANGE_H_
#define CONCLAVE_GATEWAY_HTTP_EXCHANGE_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "gateway/caller.h"
#include "gateway/http/message.h"
#include "moe/tracing/span.h"

namespace conclave {

// What the head of a request says, by the time that its body is read.
struct RequestContext {
  std::string route;                     // "/v1/models/{id}": for logs and metrics, never the client's own text
  std::string request_id;                // X-Request-Id or one that was drawn
  std::shared_ptr<const Tenant> tenant;  // null where the route asks for none
  std::string peer;
  std::shared_ptr<const Span> span;  // of the request, begun; null: it is not traced
};

// One request and its answer. Thread-safe. Whoever drops the last reference without an answer sends a 500.
class Exchange {
 public:
  virtual ~Exchange() = default;
  virtual const HttpRequest& request() const = 0;
  // The body, once: it counts against the server's memory for bodies until then.
  virtual std::string TakeBody() = 0;
  virtual const RequestContext& context() const = 0;

  // The whole answer. False: the head of a stream has gone out, so that only Write can say something; or there was an
  // answer already.
  virtual bool Respond(HttpResponse response) = 0;

  // The answer will be a stream that begins with `head`. The head goes out with the first Write, or when nothing has
  // been written for the server's ping interval: until then Respond may still answer otherwise. From then on, `ping`
  // is sent whenever nothing was written for so long.
  virtual void ExpectStream(HttpResponse head, std::string ping) = 0;
  // More of the stream. False: nobody reads it any more, so that whoever feeds it should stop.
  // REQUIRES: ExpectStream was called, and EndStream was not.
  virtual bool Write(absl::string_view bytes) = 0;
  virtual void EndStream() = 0;

  // Runs `gone` once when the client goes away, or reads too slowly, before the answer has been given; at once where it
  // has gone. On any thread, without locks.
  virtual void OnClientGone(std::function<void()> gone) = 0;
};

// How a request ended, for the access log.
struct ExchangeSummary {
  const HttpRequest* head = nullptr;  // null where it could not be read
  RequestContext context;
  int status = 0;  // what was sent; 499: the client went before anything was
  bool streamed = false;
  bool completed = true;  // false: the client did not take all of it
  int64_t body_bytes = 0;
  int64_t sent_bytes = 0;
  absl::Duration duration;
};

// What answers requests. Thread-safe.
class HttpHandler {
 public:
  virtual ~HttpHandler() = default;
  // Looks at a head before the body is read, on an I/O thread: must not block. Fills in `context`. A response: the
  // request is refused, and its body is not read.
  virtual std::optional<HttpResponse> CheckHead(const HttpRequest& head, RequestContext& context) = 0;
  // Answers, now or later; runs on a worker.
  virtual void Handle(std::shared_ptr<Exchange> exchange) = 0;
  // After the last byte, or when the client has gone; on an I/O thread.
  virtual void OnFinished(const ExchangeSummary& summary) = 0;
};

}  // namespace conclave

#endif  // CONCLAVE_GATEWAY_HTTP_EXCHANGE_H_
