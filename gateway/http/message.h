// HTTP requests and responses as values, apart from sockets and from the library that parses them.
#ifndef CONCLAVE_GATEWAY_HTTP_MESSAGE_H_
#define CONCLAVE_GATEWAY_HTTP_MESSAGE_H_

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/string_view.h"

namespace conclave {

// One header field, as it was sent.
struct HttpHeader {
  std::string name, value;
};

// A request; complete only once its body is there.
struct HttpRequest {
  std::string method;  // "GET"
  std::string path;    // of the target, without the query; not decoded
  std::vector<HttpHeader> headers;
  std::string body;
  bool http_1_0 = false;
  bool keep_alive = true;         // what the client asks for
  bool expects_continue = false;  // waits for "100 Continue" before it sends the body

  // The value of the first header of that name, in any case; empty where there is none.
  absl::string_view Header(absl::string_view name) const {
    for (const HttpHeader& header : headers) {
      if (absl::EqualsIgnoreCase(header.name, name)) return header.value;
    }
    return "";
  }
};

// A response in one piece, or the head of one that is streamed. Length, connection and date are the server's to say.
struct HttpResponse {
  int status = 200;
  std::string content_type = "application/json";
  std::vector<HttpHeader> headers;
  std::string body;

  HttpResponse& With(std::string name, std::string value) {
    headers.push_back({std::move(name), std::move(value)});
    return *this;
  }
};

}  // namespace conclave

#endif  // CONCLAVE_GATEWAY_HTTP_MESSAGE_H_
