#include "moe/tokenizer/detokenizer.h"

#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

#include "moe/tokenizer/tiny_tokenizer_for_test.h"
#include "moe/tokenizer/utf8.h"

namespace conclave {
namespace {

TEST(DetokenizerTest, ACharacterComesWhenItsLastByteDoes) {
  const auto tokenizer = TinyTokenizer();
  Detokenizer detokenizer(tokenizer.get());
  EXPECT_EQ(detokenizer.Append(0xF0), "");
  EXPECT_EQ(detokenizer.Append(0x9F), "");
  EXPECT_EQ(detokenizer.Append(0x98), "");
  EXPECT_EQ(detokenizer.Append(0x80), "\U0001F600");
  EXPECT_EQ(detokenizer.Append(kTinyHel), "hel");
  EXPECT_EQ(detokenizer.Flush(), "");
}

TEST(DetokenizerTest, AnIncompleteCharacterBecomesAReplacement) {
  const auto tokenizer = TinyTokenizer();
  Detokenizer detokenizer(tokenizer.get());
  EXPECT_EQ(detokenizer.Append(0xE4), "");
  EXPECT_EQ(detokenizer.Append('a'), "\uFFFDa");
  EXPECT_EQ(detokenizer.Append(0xE4), "");
  EXPECT_EQ(detokenizer.Flush(), "\uFFFD");
  EXPECT_EQ(detokenizer.Flush(), "");
}

TEST(DetokenizerTest, SpecialTokensAreLeftOutEvenWithinACharacter) {
  const auto tokenizer = TinyTokenizer();
  Detokenizer detokenizer(tokenizer.get());
  EXPECT_EQ(detokenizer.Append(0xC3), "");
  EXPECT_EQ(detokenizer.Append(kTinyEnd), "");
  EXPECT_EQ(detokenizer.Append(0xA9), "\u00e9");
}

TEST(DetokenizerTest, AnyIdsGiveWhatDecodeGivesAndEachPieceIsUtf8) {
  const auto tokenizer = TinyTokenizer();
  std::mt19937 random(3);
  for (int round = 0; round < 2000; ++round) {
    std::vector<int32_t> ids(random() % 20);
    // Mostly bytes that begin or continue characters, so that many sequences are nearly right.
    for (int32_t& id : ids) {
      id = random() % 4 == 0 ? random() % tokenizer->vocab() : static_cast<int32_t>(0x80 + random() % 0x80);
    }
    Detokenizer detokenizer(tokenizer.get());
    std::string text;
    for (int32_t id : ids) {
      const std::string piece = detokenizer.Append(id);
      EXPECT_TRUE(IsUtf8(piece));
      text += piece;
    }
    text += detokenizer.Flush();
    EXPECT_EQ(text, tokenizer->Decode(ids, /*skip_special=*/true).value());
  }
}

}  // namespace
}  // namespace conclave
