#include "gateway/answer_text.h"

#include <cstdint>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "moe/tokenizer/tiny_tokenizer_for_test.h"

namespace conclave {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

ServedModel TinyServedModel() {
  ServedModel model;
  model.name = "tiny";
  model.vocab = 300;  // more than the tokenizer's, as padded vocabularies are
  model.context_max = 64;
  model.eos_ids = {'!', kTinyEnd};
  model.tokenizer = TinyTokenizer();
  return model;
}

v1::DecodeResponse Ids(const std::vector<int32_t>& ids) {
  v1::DecodeResponse response;
  response.mutable_ids()->Add(ids.begin(), ids.end());
  return response;
}

// What one call added.
struct Step {
  bool stopped = false;
  std::string text;
  std::vector<int32_t> ids;
};

Step Append(AnswerText& text, const v1::DecodeResponse& response) {
  v1::GenerateResponse chunk;
  const absl::StatusOr<bool> stopped = text.Append(response, chunk);
  EXPECT_TRUE(stopped.ok()) << stopped.status();
  return {stopped.ok() && *stopped, chunk.text(), {chunk.ids().begin(), chunk.ids().end()}};
}
Step Append(AnswerText& text, const std::vector<int32_t>& ids) { return Append(text, Ids(ids)); }

Step Flush(AnswerText& text) {
  v1::GenerateResponse chunk;
  const bool stopped = text.Flush(chunk);
  return {stopped, chunk.text(), {chunk.ids().begin(), chunk.ids().end()}};
}

TEST(AnswerText, JoinsTokensAndNeverShowsHalfACharacter) {
  const ServedModel model = TinyServedModel();
  AnswerText text(model, {});
  EXPECT_EQ(Append(text, {kTinyHel, 'l', 'o'}).text, "hello");
  // U+1F642 in its four bytes.
  EXPECT_EQ(Append(text, {0xf0}).text, "");
  EXPECT_EQ(Append(text, {0x9f, 0x99}).text, "");
  EXPECT_EQ(Append(text, {0x82, 'x'}).text, "\xf0\x9f\x99\x82x");
  EXPECT_EQ(Flush(text).text, "");
  EXPECT_EQ(text.tokens(), 8);
}

TEST(AnswerText, AnEndInTheMiddleOfACharacterIsAReplacementCharacter) {
  const ServedModel model = TinyServedModel();
  AnswerText text(model, {});
  EXPECT_EQ(Append(text, {'a', 0xf0, 0x9f}).text, "a");
  EXPECT_EQ(Flush(text).text, "\xef\xbf\xbd");
}

TEST(AnswerText, ExpertsStayWithTheirTokensAndThoseOfAStopTextGoWithIt) {
  const ServedModel model = TinyServedModel();
  AnswerText text(model, {{"STOP"}, {}});
  const auto with_experts = [](const std::vector<int32_t>& ids) {
    v1::DecodeResponse response = Ids(ids);
    for (const int32_t id : ids) response.add_token_experts()->add_layers()->add_experts(id);
    return response;
  };
  v1::GenerateResponse first, last;
  ASSERT_TRUE(text.Append(with_experts({'a', 'S'}), first).ok());
  ASSERT_TRUE(text.Append(with_experts({'u', 'S', 'T', 'O', 'P'}), last).ok());
  ASSERT_EQ(first.token_experts_size(), 1) << "the second waits for what follows";
  ASSERT_EQ(last.token_experts_size(), 2);
  EXPECT_THAT(last.ids(), ElementsAre('S', 'u'));
  EXPECT_EQ(last.token_experts(0).layers(0).experts(0), 'S');
  EXPECT_EQ(last.token_experts(1).layers(0).experts(0), 'u');
  v1::DecodeResponse short_of_one = Ids({'a', 'b'});
  short_of_one.add_token_experts();
  EXPECT_EQ(text.Append(short_of_one, last).status().code(), absl::StatusCode::kInternal);
}

TEST(AnswerText, EndOfSequenceTokensHaveNoTextEvenWhereTheyAreNotSpecial) {
  const ServedModel model = TinyServedModel();
  AnswerText text(model, {});
  EXPECT_EQ(Append(text, {'a', kTinyEnd, 'b', '!', 'c'}).text, "abc");
}

TEST(AnswerText, IdsBeyondTheTokenizerHaveNoTextAndIdsBeyondTheModelAreErrors) {
  const ServedModel model = TinyServedModel();
  AnswerText text(model, {});
  EXPECT_EQ(Append(text, {299, 'a'}).text, "a");
  v1::GenerateResponse chunk;
  EXPECT_EQ(text.Append(Ids({300}), chunk).status().code(), absl::StatusCode::kInternal);
  EXPECT_EQ(text.Append(Ids({-1}), chunk).status().code(), absl::StatusCode::kInternal);
}

TEST(AnswerText, AStopTextAcrossTokensIsNeverShownAndItsIdsAreLeftOut) {
  const ServedModel model = TinyServedModel();
  AnswerText text(model, {{"STOP"}, {}});
  EXPECT_EQ(Append(text, {'a', 'S'}).text, "a");
  const Step held = Append(text, {'T', 'O'});
  EXPECT_EQ(held.text, "");
  EXPECT_THAT(held.ids, IsEmpty());
  const Step step = Append(text, {'P', 'x', 'y'});
  EXPECT_TRUE(step.stopped);
  EXPECT_EQ(step.text, "");
  EXPECT_THAT(step.ids, IsEmpty());
  EXPECT_EQ(text.tokens(), 5) << "what the stop text took counts, what came after it does not";
}

TEST(AnswerText, ATokenThatReachesIntoAStopTextIsKept) {
  const ServedModel model = TinyServedModel();
  AnswerText text(model, {{"ello"}, {}});
  const Step first = Append(text, {'>', kTinyHel});
  EXPECT_EQ(first.text, ">h");
  EXPECT_THAT(first.ids, ElementsAre('>')) << "half of a token's text is out, so the token waits";
  const Step last = Append(text, {'l', 'o'});
  EXPECT_TRUE(last.stopped);
  EXPECT_EQ(last.text, "");
  EXPECT_THAT(last.ids, ElementsAre(kTinyHel));
}

TEST(AnswerText, WhatWasHeldComesOutAtTheEnd) {
  const ServedModel model = TinyServedModel();
  AnswerText text(model, {{"STOP"}, {}});
  EXPECT_EQ(Append(text, {'a', 'S', 'T'}).text, "a");
  const Step end = Flush(text);
  EXPECT_FALSE(end.stopped);
  EXPECT_EQ(end.text, "ST");
  EXPECT_THAT(end.ids, ElementsAre('S', 'T'));
}

TEST(AnswerText, AStopTextMayBeTheReplacementOfABrokenCharacter) {
  const ServedModel model = TinyServedModel();
  AnswerText text(model, {{"\xef\xbf\xbd"}, {}});
  EXPECT_EQ(Append(text, {'a', 0xf0, 0x9f}).text, "a");
  const Step end = Flush(text);
  EXPECT_TRUE(end.stopped);
  EXPECT_EQ(end.text, "");
}

TEST(AnswerText, AStopIdHasNoTextAndIsReported) {
  const ServedModel model = TinyServedModel();
  AnswerText text(model, {{}, {'#'}});
  const Step step = Append(text, {'a', '#'});
  EXPECT_EQ(step.text, "a");
  EXPECT_THAT(step.ids, ElementsAre('a', '#'));
}

TEST(AnswerText, LogprobsComeWithTheirIdsAndTheTokensBytes) {
  const ServedModel model = TinyServedModel();
  AnswerText text(model, {{"END"}, {}});
  v1::DecodeResponse response = Ids({0xf0, 'E', kTinyHe});
  for (const int32_t id : response.ids()) {
    v1::TokenLogprob* logprob = response.add_logprobs();
    logprob->set_id(id);
    logprob->set_logprob(-0.5f);
    logprob->add_top()->set_id(kTinyEnd);
    logprob->add_top()->set_id(299);
  }
  v1::GenerateResponse chunk;
  ASSERT_TRUE(text.Append(response, chunk).ok());
  ASSERT_EQ(chunk.ids_size(), 3);
  ASSERT_EQ(chunk.logprobs_size(), 3);
  EXPECT_EQ(chunk.logprobs(0).token(), "\xf0") << "a part of a character, as it is";
  EXPECT_EQ(chunk.logprobs(2).token(), "he");
  EXPECT_EQ(chunk.logprobs(2).logprob(), -0.5f);
  EXPECT_EQ(chunk.logprobs(2).top(0).token(), "<|end|>");
  EXPECT_EQ(chunk.logprobs(2).top(1).token(), "");

  response.mutable_logprobs()->RemoveLast();
  EXPECT_EQ(text.Append(response, chunk).status().code(), absl::StatusCode::kInternal);
}

}  // namespace
}  // namespace conclave
