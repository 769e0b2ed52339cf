#include "gateway/http/error_body.h"

#include <string>

#include "gateway/refusal.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace conclave {
namespace {

std::string HeaderOf(const HttpResponse& response, const std::string& name) {
  for (const HttpHeader& header : response.headers) {
    if (header.name == name) return header.value;
  }
  return "";
}

TEST(ErrorBody, HasOpenAisFourKeys) {
  const HttpResponse response = ErrorResponse(absl::InvalidArgumentError("sampling.top_p: is \"2\""));
  EXPECT_EQ(response.status, 400);
  const auto error = nlohmann::json::parse(response.body)["error"];
  EXPECT_EQ(error["message"], "top_p: is \"2\"");
  EXPECT_EQ(error["type"], "invalid_request_error");
  EXPECT_EQ(error["param"], "top_p");
  EXPECT_TRUE(error["code"].is_null());
  EXPECT_EQ(error.size(), 4u);
}

TEST(ErrorBody, FieldsAreNamedAsTheyStandInTheBody) {
  const auto param = [](const char* message) { return ToApiError(absl::InvalidArgumentError(message)).param; };
  EXPECT_EQ(param("text: is empty"), "prompt");
  EXPECT_EQ(param("tokens.ids[3]: is 9"), "prompt[3]");
  EXPECT_EQ(param("ids[3]: is 9"), "tokens[3]");
  EXPECT_EQ(param("chat.messages[1].role: is odd"), "messages[1].role");
  EXPECT_EQ(param("max_tokens: is 0"), "max_tokens");
  EXPECT_EQ(param("nothing in particular"), "");
}

TEST(ErrorBody, EveryStatusHasItsNumber) {
  EXPECT_EQ(ToApiError(absl::NotFoundError("model: x")).code, "model_not_found");
  EXPECT_EQ(ToApiError(absl::NotFoundError("model: x")).status, 404);
  EXPECT_EQ(ToApiError(absl::UnauthenticatedError("x")).status, 401);
  EXPECT_EQ(ToApiError(absl::UnauthenticatedError("x")).code, "invalid_api_key");
  EXPECT_EQ(ToApiError(absl::PermissionDeniedError("x")).status, 403);
  EXPECT_EQ(ToApiError(absl::DeadlineExceededError("x")).status, 504);
  EXPECT_EQ(ToApiError(absl::InternalError("x")).status, 500);
  EXPECT_EQ(ToApiError(absl::CancelledError("x")).status, 500);
  EXPECT_EQ(HeaderOf(ErrorResponse(absl::UnauthenticatedError("x")), "WWW-Authenticate"), "Bearer");
  EXPECT_EQ(HeaderOf(ErrorResponse(absl::UnavailableError("x")), "Retry-After"), "1");
}

TEST(ErrorBody, ALimitSaysItsNameAndWhenToTryAgain) {
  const absl::Status status = LimitReached(kLimitTokensPerMinute, "too many", absl::Milliseconds(2500));
  const HttpResponse response = ErrorResponse(status);
  EXPECT_EQ(response.status, 429);
  EXPECT_EQ(HeaderOf(response, "Retry-After"), "3");
  EXPECT_EQ(HeaderOf(response, "retry-after-ms"), "2500");
  const ApiError error = ToApiError(status);
  EXPECT_EQ(error.type, "tokens");
  EXPECT_EQ(error.code, "rate_limit_exceeded");
  EXPECT_EQ(error.message, "tokens_per_minute: too many");
}

TEST(ErrorBody, ContextLengthAndOwnCodes) {
  absl::Status status = absl::InvalidArgumentError("chat.messages: have 9 tokens");
  status.SetPayload(kContextLengthPayload, absl::Cord());
  EXPECT_EQ(ToApiError(status).code, "context_length_exceeded");
  EXPECT_EQ(ToApiError(WithErrorCode(status, "mine")).code, "mine");
}

}  // namespace
}  // namespace conclave
