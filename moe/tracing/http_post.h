// One HTTP/1.1 POST over a plain TCP connection, with a deadline: what a process needs to hand its spans to a
// collector beside it.
#ifndef CONCLAVE_MOE_TRACING_HTTP_POST_H_
#define CONCLAVE_MOE_TRACING_HTTP_POST_H_

#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace conclave {

// An http:// address in its parts.
struct HttpUrl {
  std::string host;  // without brackets
  std::string port;
  std::string path;  // begins with '/'
};

// "http://HOST[:PORT][/PATH]"; the port is 80 where none is given. INVALID_ARGUMENT quotes the text: another scheme,
// user information, a query, characters that no URL has.
absl::StatusOr<HttpUrl> ParseHttpUrl(absl::string_view text);

// An answer's status and the beginning of its body.
struct HttpAnswer {
  int status = 0;
  std::string body;  // at most 64 KiB; empty where it comes in chunks
};

// Blocks until the answer is there or `timeout` is over. UNAVAILABLE: no connection, or it broke; DEADLINE_EXCEEDED;
// DATA_LOSS: what came is no HTTP. Names and values of `headers` must hold no line ends.
absl::StatusOr<HttpAnswer> HttpPost(const HttpUrl& url, const std::vector<std::pair<std::string, std::string>>& headers,
                                    absl::string_view body, absl::Duration timeout);

}  // namespace conclave

#endif  // CONCLAVE_MOE_TRACING_HTTP_POST_H_
