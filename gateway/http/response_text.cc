#include "gateway/http/response_text.h"

#include "absl/strings/str_cat.h"

namespace conclave {
namespace {

absl::string_view Reason(int status) {
  switch (status) {
    case 200:
      return "OK";
    case 204:
      return "No Content";
    case 400:
      return "Bad Request";
    case 401:
      return "Unauthorized";
    case 403:
      return "Forbidden";
    case 404:
      return "Not Found";
    case 405:
      return "Method Not Allowed";
    case 408:
      return "Request Timeout";
    case 413:
      return "Payload Too Large";
    case 415:
      return "Unsupported Media Type";
    case 429:
      return "Too Many Requests";
    case 431:
      return "Request Header Fields Too Large";
    case 500:
      return "Internal Server Error";
    case 501:
      return "Not Implemented";
    case 503:
      return "Service Unavailable";
    case 504:
      return "Gateway Timeout";
    case 505:
      return "HTTP Version Not Supported";
    default:
      return "Unknown";
  }
}

}  // namespace

std::string ResponseHead(const HttpResponse& response, const HeadOptions& options, absl::Time now) {
  std::string head = absl::StrCat("HTTP/1.1 ", response.status, " ", Reason(response.status), "\r\n");
  absl::StrAppend(&head, "Date: ", absl::FormatTime("%a, %d %b %E4Y %H:%M:%S GMT", now, absl::UTCTimeZone()), "\r\n");
  if (response.status != 204) absl::StrAppend(&head, "Content-Type: ", response.content_type, "\r\n");
  if (options.content_length.has_value() && response.status != 204) {
    absl::StrAppend(&head, "Content-Length: ", *options.content_length, "\r\n");
  }
  if (options.chunked) absl::StrAppend(&head, "Transfer-Encoding: chunked\r\n");
  if (!options.keep_alive) absl::StrAppend(&head, "Connection: close\r\n");
  if (!options.request_id.empty()) absl::StrAppend(&head, "X-Request-Id: ", options.request_id, "\r\n");
  for (const HttpHeader& header : response.headers) absl::StrAppend(&head, header.name, ": ", header.value, "\r\n");
  absl::StrAppend(&head, "\r\n");
  return head;
}

std::string ChunkOf(absl::string_view bytes) {
  if (bytes.empty()) return "";
  return absl::StrCat(absl::Hex(bytes.size()), "\r\n", bytes, "\r\n");
}

}  // namespace conclave
