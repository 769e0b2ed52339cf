#include "gateway/http/answer_json.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace conclave {
namespace {

using nlohmann::json;

v1::TokenLogprob Token(const std::string& bytes, float logprob) {
  v1::TokenLogprob token;
  token.set_token(bytes);
  token.set_logprob(logprob);
  v1::TokenLogprob* top = token.add_top();
  top->set_token(bytes);
  top->set_logprob(logprob);
  return token;
}

AnswerHead Head(bool chat) {
  AnswerHead head;
  head.chat = chat;
  head.id = "id";
  head.model = "demo";
  head.created = 7;
  return head;
}

TEST(AnswerJson, AWholeChat) {
  AnswerPiece choice;
  choice.text = "say \"é\"";
  choice.finish_reason = "stop";
  const json answer = json::parse(WholeAnswer(Head(true), {choice}, {5, 2, 4}));
  EXPECT_EQ(answer, json::parse(R"({"id": "id", "object": "chat.completion", "created": 7, "model": "demo",
    "system_fingerprint": null, "choices": [{"index": 0, "message": {"role": "assistant", "content": "say \"é\"",
    "refusal": null}, "logprobs": null, "finish_reason": "stop"}], "usage": {"prompt_tokens": 5, "completion_tokens": 2,
    "total_tokens": 7, "prompt_tokens_details": {"cached_tokens": 4}}})"));
}

TEST(AnswerJson, LogprobsOfAChatHoldTokensAndBytes) {
  AnswerPiece piece;
  piece.has_logprobs = true;
  piece.logprobs = {Token("\xf0\x9f", -0.5f)};
  const json chunk = json::parse(ChunkOfAnswer(Head(true), piece, ChunkUsage::kNull, {}));
  EXPECT_EQ(chunk["choices"][0]["logprobs"]["content"][0], json::parse(R"({"token": "�", "logprob": -0.5,
    "bytes": [240, 159], "top_logprobs": [{"token": "�", "logprob": -0.5, "bytes": [240, 159]}]})"));
  EXPECT_TRUE(chunk["usage"].is_null());
  EXPECT_FALSE(json::parse(ChunkOfAnswer(Head(true), piece, ChunkUsage::kAbsent, {})).contains("usage"));
}

TEST(AnswerJson, OffsetsOfACompletionPointIntoItsText) {
  AnswerPiece piece;
  piece.text = "é🙂b";
  piece.has_logprobs = true;
  piece.first_without = 1;
  piece.logprobs = {Token("<s>", 0), Token("é", -1), Token("\xf0\x9f", -2), Token("\x99\x82", -3), Token("b", -4)};
  const json logprobs = json::parse(WholeAnswer(Head(false), {piece}, {}))["choices"][0]["logprobs"];
  EXPECT_EQ(logprobs["text_offset"], json({0, 0, 1, 2, 2}));
  EXPECT_EQ(logprobs["tokens"], json({"<s>", "é", "bytes:\\xf0\\x9f", "bytes:\\x99\\x82", "b"}));
  EXPECT_EQ(logprobs["token_logprobs"], json({nullptr, -1, -2, -3, -4}));
  EXPECT_TRUE(logprobs["top_logprobs"][0].is_null());
}

TEST(AnswerJson, ExpertsOfTokensStandByLayer) {
  AnswerPiece piece;
  piece.text = "a";
  EXPECT_FALSE(json::parse(ChunkOfAnswer(Head(true), piece, ChunkUsage::kAbsent, {}))["choices"][0].contains(
      "token_experts"));
  TokenWithExperts token;
  token.id = 17;
  for (const int layer : {1, 2}) {
    v1::LayerExperts* chosen = token.experts.add_layers();
    chosen->set_layer(layer);
    chosen->add_experts(3);
    chosen->add_experts(7 + layer);
  }
  piece.token_experts = {token};
  const json expected = json::parse(R"([{"id": 17, "experts": {"1": [3, 8], "2": [3, 9]}}])");
  EXPECT_EQ(json::parse(ChunkOfAnswer(Head(true), piece, ChunkUsage::kAbsent, {}))["choices"][0]["token_experts"],
            expected);
  EXPECT_EQ(json::parse(WholeAnswer(Head(false), {piece}, {}))["choices"][0]["token_experts"], expected);
}

TEST(AnswerJson, ChunksOfAStream) {
  AnswerPiece first;
  first.has_role = true;
  EXPECT_EQ(json::parse(ChunkOfAnswer(Head(true), first, ChunkUsage::kAbsent, {}))["choices"][0]["delta"],
            json::parse(R"({"role": "assistant", "content": ""})"));
  AnswerPiece thought;
  thought.reasoning = "hm";
  EXPECT_EQ(json::parse(ChunkOfAnswer(Head(true), thought, ChunkUsage::kAbsent, {}))["choices"][0]["delta"],
            json::parse(R"({"reasoning_content": "hm"})"));
  EXPECT_EQ(json::parse(UsageChunk(Head(false), {1, 2, 0}))["choices"], json::array());
  EXPECT_EQ(SseEvent("{}"), "data: {}\n\n");
}

}  // namespace
}  // namespace conclave
