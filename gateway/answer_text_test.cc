#include "gateway/answer_text.h"

#include <cstdint>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "moe/tokenizer/tiny_tokenizer_for_test.h"

namespace conclave {
namespace {

ServedModel TinyServedModel() {
  ServedModel model;
  model.name = "tiny";
  model.vocab = 300;  // more than the tokenizer's, as padded vocabularies are
  model.context_max = 64;
  model.eos_ids = {'!', kTinyEnd};
  model.tokenizer = TinyTokenizer();
  return model;
}

TEST(AnswerText, JoinsTokensAndNeverShowsHalfACharacter) {
  const ServedModel model = TinyServedModel();
  AnswerText text(model);
  EXPECT_EQ(*text.Append({kTinyHel, 'l', 'o'}), "hello");
  // U+1F642 in its four bytes.
  EXPECT_EQ(*text.Append({0xf0}), "");
  EXPECT_EQ(*text.Append({0x9f, 0x99}), "");
  EXPECT_EQ(*text.Append({0x82, 'x'}), "\xf0\x9f\x99\x82x");
  EXPECT_EQ(text.Flush(), "");
}

TEST(AnswerText, AnEndInTheMiddleOfACharacterIsAReplacementCharacter) {
  const ServedModel model = TinyServedModel();
  AnswerText text(model);
  EXPECT_EQ(*text.Append({'a', 0xf0, 0x9f}), "a");
  EXPECT_EQ(text.Flush(), "\xef\xbf\xbd");
}

TEST(AnswerText, EndOfSequenceTokensHaveNoTextEvenWhereTheyAreNotSpecial) {
  const ServedModel model = TinyServedModel();
  AnswerText text(model);
  EXPECT_EQ(*text.Append({'a', kTinyEnd, 'b', '!', 'c'}), "abc");
}

TEST(AnswerText, IdsBeyondTheTokenizerHaveNoTextAndIdsBeyondTheModelAreErrors) {
  const ServedModel model = TinyServedModel();
  AnswerText text(model);
  EXPECT_EQ(*text.Append({299, 'a'}), "a");
  EXPECT_EQ(text.Append({300}).status().code(), absl::StatusCode::kInternal);
  EXPECT_EQ(text.Append({-1}).status().code(), absl::StatusCode::kInternal);
}

}  // namespace
}  // namespace conclave
