#include "gateway/http/error_body.h"

#include <algorithm>
#include <cstdint>
#include <utility>

#include "absl/strings/cord.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/time/time.h"
#include "gateway/refusal.h"
#include "moe/base/json_writer.h"
#include "moe/tokenizer/utf8.h"

namespace conclave {
namespace {

constexpr char kErrorCodePayload[] = "conclave/http-error-code";

// Where the dispatcher's field stood in the HTTP body.
std::string ParamOf(const absl::Status& status) {
  const std::string field = FieldOf(status);
  absl::string_view name = field;
  if (name == "text" || name == "tokens" || name == "prompt") return "prompt";
  if (name == "grammar") return "response_format";
  if (absl::ConsumePrefix(&name, "tokens.ids")) return absl::StrCat("prompt", name);
  if (name == "ids" || absl::StartsWith(name, "ids[")) return absl::StrCat("tokens", name.substr(3));
  if (!absl::ConsumePrefix(&name, "sampling.")) absl::ConsumePrefix(&name, "chat.");
  return std::string(name);
}

// The message with the field's name as the client knows it.
std::string MessageOf(const absl::Status& status, const std::string& param) {
  const std::string field = FieldOf(status);
  if (field.empty() || field == param) return std::string(status.message());
  return absl::StrCat(param, status.message().substr(field.size()));
}

// Messages may quote a text that was cut in mid-character.
std::string Lossy(const std::string& text) {
  std::string lossy;
  AppendLossyUtf8(text, /*final=*/true, &lossy);
  return lossy;
}

ApiError LimitError(const absl::Status& status) {
  const std::string limit = LimitOf(status).value_or("");
  ApiError error{429, std::string(status.message()), "requests", "", "rate_limit_exceeded"};
  if (limit == kLimitTokensPerMinute) error.type = "tokens";
  if (!limit.empty() && !absl::StrContains(error.message, limit)) {
    error.message = absl::StrCat(limit, ": ", error.message);
  }
  return error;
}

}  // namespace

absl::Status WithErrorCode(absl::Status status, absl::string_view code) {
  status.SetPayload(kErrorCodePayload, absl::Cord(code));
  return status;
}

std::string ErrorBody(const ApiError& error) {
  JsonWriter json;
  json.BeginObject().Key("error").BeginObject().Key("message").Text(Lossy(error.message)).Key("type").Text(error.type);
  json.Key("param");
  error.param.empty() ? json.Null() : json.Text(Lossy(error.param));
  json.Key("code");
  error.code.empty() ? json.Null() : json.Text(error.code);
  return json.End().End().text();
}

HttpResponse ErrorResponse(const ApiError& error) {
  HttpResponse response;
  response.status = error.status;
  response.body = ErrorBody(error);
  if (error.status == 401) response.With("WWW-Authenticate", "Bearer");
  if (error.status == 429 || error.status == 503) response.With("Retry-After", "1");
  return response;
}

HttpResponse ErrorResponse(int status, absl::string_view message) {
  ApiError error;
  error.status = status;
  error.message = std::string(message);
  if (status >= 500) error.type = "server_error";
  return ErrorResponse(error);
}

ApiError ToApiError(const absl::Status& status) {
  ApiError error;
  switch (status.code()) {
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kOutOfRange:
      error.param = ParamOf(status);
      error.message = MessageOf(status, error.param);
      if (IsContextLengthExceeded(status)) error.code = "context_length_exceeded";
      if (IsUnsupported(status)) error.code = "unsupported_parameter";
      break;
    case absl::StatusCode::kNotFound:
      error = {404, std::string(status.message()), "invalid_request_error", "", "model_not_found"};
      break;
    case absl::StatusCode::kUnauthenticated:
      error = {401, std::string(status.message()), "invalid_request_error", "", "invalid_api_key"};
      break;
    case absl::StatusCode::kPermissionDenied:
      error = {403, std::string(status.message()), "invalid_request_error", "", "permission_denied"};
      break;
    case absl::StatusCode::kResourceExhausted:
      error = LimitError(status);
      break;
    case absl::StatusCode::kUnavailable:
      error = {503, std::string(status.message()), "server_error", "", "service_unavailable"};
      break;
    case absl::StatusCode::kDeadlineExceeded:
      error = {504, std::string(status.message()), "server_error", "", "timeout"};
      break;
    case absl::StatusCode::kUnimplemented:
      error = {501, std::string(status.message()), "server_error", "", "not_implemented"};
      break;
    default:
      error = {500, std::string(status.message()), "server_error", "", "internal_error"};
  }
  if (const auto code = status.GetPayload(kErrorCodePayload); code.has_value()) error.code = std::string(*code);
  return error;
}

HttpResponse ErrorResponse(const absl::Status& status) {
  HttpResponse response = ErrorResponse(ToApiError(status));
  const auto retry_after = RetryAfterOf(status);
  if (!retry_after.has_value()) return response;
  const int64_t seconds = absl::ToInt64Seconds(absl::Ceil(*retry_after, absl::Seconds(1)));
  for (HttpHeader& header : response.headers) {
    if (header.name == "Retry-After") header.value = absl::StrCat(std::max<int64_t>(1, seconds));
  }
  // OpenAI's own clients take the finer one first.
  response.With("retry-after-ms", absl::StrCat(absl::ToInt64Milliseconds(*retry_after)));
  if (const auto limit = LimitOf(status); limit.has_value()) response.With("X-RateLimit-Limit-Name", *limit);
  return response;
}

}  // namespace conclave
