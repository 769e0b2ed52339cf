// From the bytes of a connection to one HTTP request, within limits. Knows no sockets.
#ifndef CONCLAVE_GATEWAY_HTTP_REQUEST_READER_H_
#define CONCLAVE_GATEWAY_HTTP_REQUEST_READER_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/strings/string_view.h"
#include "gateway/http/message.h"

namespace conclave {

// Beyond these a request is refused.
struct RequestLimits {
  int64_t header_bytes_max = 32 << 10;
  int headers_max = 100;
  int64_t body_bytes_max = 32 << 20;
};

// Why a request cannot be read: what the client is told before the connection is closed.
struct RequestFailure {
  int status = 400;  // 400, 413, 415, 431, 501 or 505
  std::string message;
};

// Reads one request; the next one needs a new reader. Used by one thread at a time.
class RequestReader {
 public:
  enum class State { kHead, kHeadDone, kBody, kDone, kFailed };

  explicit RequestReader(const RequestLimits& limits);
  ~RequestReader();

  // Takes bytes from the front of `data` and says how many. What it leaves must come again, with more behind it, until
  // the state is kDone or kFailed. Stops after the head, in kHeadDone, which the next call leaves.
  // REQUIRES: the state is not kDone or kFailed.
  size_t Feed(absl::string_view data);

  State state() const { return state_; }
  // The head from kHeadDone on, the body in kDone.
  HttpRequest& request() { return request_; }
  // Of the body, so far.
  int64_t body_bytes() const;
  // What the head says of the body's length; -1: it comes in chunks.
  int64_t content_length() const { return content_length_; }
  // In kFailed.
  const RequestFailure& failure() const { return failure_; }

 private:
  struct Parser;
  void Fail(int status, std::string message);
  void TakeHead();

  const RequestLimits limits_;
  std::unique_ptr<Parser> parser_;
  State state_ = State::kHead;
  HttpRequest request_;
  int64_t content_length_ = 0;
  RequestFailure failure_;
};

}  // namespace conclave

#endif  // CONCLAVE_GATEWAY_HTTP_REQUEST_READER_H_
