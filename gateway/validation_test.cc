#include "gateway/validation.h"

#include <cmath>
#include <functional>
#include <limits>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "moe/base/limits.h"

namespace conclave {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr int kVocab = 100;

v1::GenerateRequest Good() {
  v1::GenerateRequest request;
  request.set_text("hello");
  return request;
}

// A request that differs from a good one by `change` is refused with a message that starts with the field's name.
void ExpectRefused(const std::function<void(v1::GenerateRequest&)>& change, const std::string& field) {
  v1::GenerateRequest request = Good();
  change(request);
  const absl::Status status = ValidateGenerate(request, "demo", kVocab);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << field;
  EXPECT_THAT(std::string(status.message()), StartsWith(field + ":"));
}

TEST(ValidateGenerate, AcceptsTheThreePromptsAndTheEdges) {
  v1::GenerateRequest request = Good();
  EXPECT_TRUE(ValidateGenerate(request, "demo", kVocab).ok());
  request.set_model("demo");
  request.set_max_tokens(1);
  request.set_request_id("req-1/a:b");
  request.mutable_sampling()->set_temperature(0);
  request.mutable_sampling()->set_top_p(1);
  request.mutable_sampling()->set_top_k(0);
  EXPECT_TRUE(ValidateGenerate(request, "demo", kVocab).ok());
  request.mutable_tokens()->add_ids(0);
  request.mutable_tokens()->add_ids(kVocab - 1);
  EXPECT_TRUE(ValidateGenerate(request, "demo", kVocab).ok());
  request.mutable_chat()->add_messages()->set_role("user");
  EXPECT_TRUE(ValidateGenerate(request, "demo", kVocab).ok());
}

TEST(ValidateGenerate, NamesTheFieldThatIsWrong) {
  ExpectRefused([](auto& r) { r.clear_prompt(); }, "prompt");
  ExpectRefused([](auto& r) { r.set_text(""); }, "text");
  ExpectRefused([](auto& r) { r.set_text(std::string(limits::kPromptBytesMax + 1, 'x')); }, "text");
  ExpectRefused([](auto& r) { r.mutable_chat(); }, "chat.messages");
  ExpectRefused([](auto& r) { r.mutable_chat()->add_messages()->set_role("tool"); }, "chat.messages[0].role");
  ExpectRefused([](auto& r) { r.mutable_chat()->add_messages(); }, "chat.messages[0].role");
  ExpectRefused(
      [](auto& r) {
        for (int i = 0; i <= kChatMessagesMax; ++i) r.mutable_chat()->add_messages()->set_role("user");
      },
      "chat.messages");
  ExpectRefused([](auto& r) { r.mutable_tokens(); }, "tokens.ids");
  ExpectRefused([](auto& r) { r.mutable_tokens()->add_ids(-1); }, "tokens.ids[0]");
  ExpectRefused([](auto& r) { r.mutable_tokens()->add_ids(kVocab); }, "tokens.ids[0]");
  ExpectRefused([](auto& r) { r.set_max_tokens(0); }, "max_tokens");
  ExpectRefused([](auto& r) { r.set_max_tokens(-1); }, "max_tokens");
  ExpectRefused([](auto& r) { r.set_request_id("a b"); }, "request_id");
  ExpectRefused([](auto& r) { r.set_request_id("a\nI forged"); }, "request_id");
  ExpectRefused([](auto& r) { r.set_request_id(std::string(kRequestIdBytesMax + 1, 'x')); }, "request_id");
}

TEST(ValidateGenerate, NamesTheSamplingOptionThatIsWrong) {
  const float nan = std::nanf(""), infinity = std::numeric_limits<float>::infinity();
  for (const float bad : {nan, infinity, -infinity, -0.5f}) {
    ExpectRefused([bad](auto& r) { r.mutable_sampling()->set_temperature(bad); }, "sampling.temperature");
  }
  for (const float bad : {nan, infinity, 0.0f, -1.0f, 1.01f}) {
    ExpectRefused([bad](auto& r) { r.mutable_sampling()->set_top_p(bad); }, "sampling.top_p");
  }
  ExpectRefused([](auto& r) { r.mutable_sampling()->set_top_k(-1); }, "sampling.top_k");
}

TEST(ValidateGenerate, AnotherModelIsNotFound) {
  v1::GenerateRequest request = Good();
  request.set_model("other");
  EXPECT_EQ(ValidateGenerate(request, "demo", kVocab).code(), absl::StatusCode::kNotFound);
}

TEST(ValidateTokenize, ChecksItsInput) {
  v1::TokenizeRequest request;
  EXPECT_THAT(std::string(ValidateTokenize(request, "demo").message()), StartsWith("input:"));
  request.set_text("");
  EXPECT_THAT(std::string(ValidateTokenize(request, "demo").message()), StartsWith("text:"));
  request.set_text("x");
  EXPECT_TRUE(ValidateTokenize(request, "demo").ok());
  request.mutable_chat();
  EXPECT_THAT(std::string(ValidateTokenize(request, "demo").message()), StartsWith("chat.messages:"));
}

TEST(ValidatePromptLength, LeavesRoomForOneToken) {
  EXPECT_TRUE(ValidatePromptLength("text", 255, 256).ok());
  EXPECT_THAT(std::string(ValidatePromptLength("text", 256, 256).message()), HasSubstr("text: has 256 tokens"));
}

}  // namespace
}  // namespace conclave
