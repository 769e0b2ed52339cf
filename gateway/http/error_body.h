// Errors in the words of OpenAI's API: {"error": {"message", "type", "param", "code"}} and the HTTP status beside it.
#ifndef CONCLAVE_GATEWAY_HTTP_ERROR_BODY_H_
#define CONCLAVE_GATEWAY_HTTP_ERROR_BODY_H_

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "gateway/http/message.h"

namespace conclave {

// One error as clients see it.
struct ApiError {
  int status = 400;
  std::string message;
  std::string type = "invalid_request_error";
  std::string param;  // empty: null
  std::string code;   // empty: null
};

// {"error": {…}}: the body of an answer, and the data of an event in mid-stream.
std::string ErrorBody(const ApiError& error);
// With the headers that belong to the status.
HttpResponse ErrorResponse(const ApiError& error);
// An error of the protocol itself, such as 431, in the same form.
HttpResponse ErrorResponse(int status, absl::string_view message);

// What a status of the dispatcher or of a translation means: its field becomes `param`, spelt as in the HTTP body
// ("sampling.top_p" is "top_p", "text" is "prompt"); a code set by WithErrorCode wins over the status's own.
ApiError ToApiError(const absl::Status& status);
HttpResponse ErrorResponse(const absl::Status& status);

// The same status with OpenAI's code for it, such as "unsupported_parameter".
absl::Status WithErrorCode(absl::Status status, absl::string_view code);

}  // namespace conclave

#endif  // CONCLAVE_GATEWAY_HTTP_ERROR_BODY_H_
