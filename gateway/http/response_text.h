// Responses as bytes. Pure functions.
#ifndef CONCLAVE_GATEWAY_HTTP_RESPONSE_TEXT_H_
#define CONCLAVE_GATEWAY_HTTP_RESPONSE_TEXT_H_

#include <cstddef>
#include <optional>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "gateway/http/message.h"

namespace conclave {

// What the connection adds to a head.
struct HeadOptions {
  std::optional<size_t> content_length;  // none: the body comes in chunks, or until the connection closes
  bool chunked = false;
  bool keep_alive = true;
  std::string request_id;  // empty: no X-Request-Id
};

// "HTTP/1.1 200 OK" and the headers, with the empty line behind them.
std::string ResponseHead(const HttpResponse& response, const HeadOptions& options, absl::Time now);
// One chunk of a chunked body; nothing for nothing, since an empty chunk would end the body.
std::string ChunkOf(absl::string_view bytes);
inline constexpr absl::string_view kLastChunk = "0\r\n\r\n";
inline constexpr absl::string_view kContinue = "HTTP/1.1 100 Continue\r\n\r\n";

}  // namespace conclave

#endif  // CONCLAVE_GATEWAY_HTTP_RESPONSE_TEXT_H_
