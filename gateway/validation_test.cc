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
  request.mutable_sampling()->set_min_p(1);
  request.mutable_sampling()->set_repetition_penalty(1.1f);
  request.mutable_sampling()->set_presence_penalty(-2);
  request.mutable_sampling()->set_frequency_penalty(2);
  (*request.mutable_sampling()->mutable_logit_bias())[kVocab - 1] = -100;
  request.set_n(kAnswersMax);
  request.set_echo(true);
  request.set_logprobs(0);
  request.set_min_tokens(1);
  request.add_stop(std::string(kStopBytesMax, 'x'));
  request.add_stop_token_ids(0);
  request.set_priority(-3);
  EXPECT_TRUE(ValidateGenerate(request, "demo", kVocab).ok());
  request.set_min_tokens(0);
  request.set_max_tokens(0);
  EXPECT_TRUE(ValidateGenerate(request, "demo", kVocab).ok()) << "it has an echo";
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
  ExpectRefused([](auto& r) { r.mutable_chat()->add_messages()->set_role("function"); }, "chat.messages[0].role");
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
  ExpectRefused(
      [](auto& r) {
        r.set_echo(true);
        r.set_max_tokens(-1);
      },
      "max_tokens");
  ExpectRefused(
      [](auto& r) {
        r.set_echo(true);
        r.set_max_tokens(0);
        r.set_min_tokens(1);
      },
      "min_tokens");
  ExpectRefused([](auto& r) { r.mutable_grammar(); }, "grammar");
  ExpectRefused([](auto& r) { r.mutable_grammar()->set_json_object(false); }, "grammar.json_object");
  ExpectRefused([](auto& r) { r.mutable_grammar()->set_json_schema("{"); }, "grammar.json_schema");
  ExpectRefused([](auto& r) { r.mutable_grammar()->set_regex("a**"); }, "grammar.regex");
  ExpectRefused([](auto& r) { r.mutable_grammar()->mutable_choices(); }, "grammar.choices");
  const auto with_json = [](auto& r) { r.mutable_grammar()->set_json_object(true); };
  ExpectRefused(
      [&](auto& r) {
        with_json(r);
        r.set_ignore_eos(true);
      },
      "ignore_eos");
  ExpectRefused(
      [&](auto& r) {
        with_json(r);
        r.set_min_tokens(1);
      },
      "min_tokens");
  ExpectRefused(
      [&](auto& r) {
        with_json(r);
        r.mutable_chat()->add_messages()->set_role("user");
        r.mutable_chat()->add_tools(R"({"type": "function", "function": {"name": "f"}})");
      },
      "grammar");
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
  for (const float bad : {nan, infinity, -0.1f, 1.01f}) {
    ExpectRefused([bad](auto& r) { r.mutable_sampling()->set_min_p(bad); }, "sampling.min_p");
  }
  for (const float bad : {nan, infinity, 0.0f, -1.0f}) {
    ExpectRefused([bad](auto& r) { r.mutable_sampling()->set_repetition_penalty(bad); }, "sampling.repetition_penalty");
  }
  for (const float bad : {nan, infinity, -2.5f, 2.5f}) {
    ExpectRefused([bad](auto& r) { r.mutable_sampling()->set_presence_penalty(bad); }, "sampling.presence_penalty");
    ExpectRefused([bad](auto& r) { r.mutable_sampling()->set_frequency_penalty(bad); }, "sampling.frequency_penalty");
  }
  for (const float bad : {nan, infinity, -100.5f, 101.0f}) {
    ExpectRefused([bad](auto& r) { (*r.mutable_sampling()->mutable_logit_bias())[1] = bad; }, "sampling.logit_bias");
  }
  for (const int bad : {-1, kVocab}) {
    ExpectRefused([bad](auto& r) { (*r.mutable_sampling()->mutable_logit_bias())[bad] = 1; }, "sampling.logit_bias");
  }
}

TEST(ValidateGenerate, LimitsHowManyOfEverything) {
  for (const int bad : {0, -1, kAnswersMax + 1, 1'000'000}) {
    ExpectRefused([bad](auto& r) { r.set_n(bad); }, "n");
  }
  for (const int bad : {-1, kTopLogprobsMax + 1}) {
    ExpectRefused([bad](auto& r) { r.set_logprobs(bad); }, "logprobs");
  }
  ExpectRefused([](auto& r) { r.set_priority(kPriorityMax + 1); }, "priority");
  ExpectRefused([](auto& r) { r.set_min_tokens(-1); }, "min_tokens");
  ExpectRefused(
      [](auto& r) {
        r.set_min_tokens(6);
        r.set_max_tokens(5);
      },
      "min_tokens");
  ExpectRefused([](auto& r) { r.add_stop(""); }, "stop[0]");
  ExpectRefused([](auto& r) { r.add_stop(std::string(kStopBytesMax + 1, 'x')); }, "stop[0]");
  ExpectRefused(
      [](auto& r) {
        for (int i = 0; i <= kStopsMax; ++i) r.add_stop("x");
      },
      "stop");
  ExpectRefused([](auto& r) { r.add_stop_token_ids(kVocab); }, "stop_token_ids[0]");
  ExpectRefused(
      [](auto& r) {
        for (int i = 0; i <= kStopIdsMax; ++i) r.add_stop_token_ids(1);
      },
      "stop_token_ids");
}

TEST(ValidateLogitBias, TakesManyEntriesAndNotMore) {
  v1::GenerateRequest request = Good();
  for (int id = 0; id < kLogitBiasesMax; ++id) (*request.mutable_sampling()->mutable_logit_bias())[id] = -100;
  EXPECT_TRUE(ValidateGenerate(request, "demo", kLogitBiasesMax + 1).ok());
  (*request.mutable_sampling()->mutable_logit_bias())[kLogitBiasesMax] = 100;
  EXPECT_THAT(std::string(ValidateGenerate(request, "demo", kLogitBiasesMax + 1).message()),
              StartsWith("sampling.logit_bias: has"));
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

TEST(ValidateDetokenize, ChecksItsIds) {
  v1::DetokenizeRequest request;
  EXPECT_TRUE(ValidateDetokenize(request, "demo", kVocab).ok());
  request.add_ids(kVocab - 1);
  EXPECT_TRUE(ValidateDetokenize(request, "demo", kVocab).ok());
  request.add_ids(kVocab);
  EXPECT_THAT(std::string(ValidateDetokenize(request, "demo", kVocab).message()), StartsWith("ids[1]:"));
  request.set_model("other");
  EXPECT_EQ(ValidateDetokenize(request, "demo", kVocab).code(), absl::StatusCode::kNotFound);
}

TEST(ValidatePromptLength, LeavesRoomForOneToken) {
  EXPECT_TRUE(ValidatePromptLength("text", 255, 256).ok());
  EXPECT_THAT(std::string(ValidatePromptLength("text", 256, 256).message()), HasSubstr("text: has 256 tokens"));
}

}  // namespace
}  // namespace conclave
