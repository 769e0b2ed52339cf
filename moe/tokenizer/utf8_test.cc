#include "moe/tokenizer/utf8.h"

#include <gtest/gtest.h>

#include "moe/tokenizer/byte_level.h"

namespace conclave {
namespace {

std::string Lossy(absl::string_view bytes) {
  std::string text;
  EXPECT_EQ(AppendLossyUtf8(bytes, /*final=*/true, &text), 0u);
  return text;
}

TEST(Utf8Test, InvalidSequencesBecomeOneReplacementPerMaximalSubpart) {
  EXPECT_EQ(Lossy("a\u00e9\u4e2d\U0001F600"), "a\u00e9\u4e2d\U0001F600");
  EXPECT_EQ(Lossy("\xC0\xAF"), "\uFFFD\uFFFD");                      // overlong
  EXPECT_EQ(Lossy("\xED\xA0\x80"), "\uFFFD\uFFFD\uFFFD");            // a surrogate
  EXPECT_EQ(Lossy("\xF4\x90\x80\x80"), "\uFFFD\uFFFD\uFFFD\uFFFD");  // above U+10FFFF
  EXPECT_EQ(Lossy("\xF0\x9F\x98z"), "\uFFFDz");                      // cut off: one subpart of three bytes
  EXPECT_EQ(Lossy("\xE4\xB8"), "\uFFFD");
  EXPECT_EQ(Lossy("\x80\xFF"), "\uFFFD\uFFFD");
}

TEST(Utf8Test, AnIncompleteEndIsKeptUntilFinal) {
  std::string text;
  EXPECT_EQ(AppendLossyUtf8("a\xF0\x9F\x98", /*final=*/false, &text), 3u);
  EXPECT_EQ(text, "a");
  EXPECT_EQ(AppendLossyUtf8("b\xF8", /*final=*/false, &text), 0u);
  EXPECT_EQ(text, "ab\uFFFD");
}

TEST(Utf8Test, KnowsSpaces) {
  for (uint32_t space : {0x09, 0x20, 0x85, 0xA0, 0x2003, 0x3000}) EXPECT_TRUE(IsUnicodeSpace(space)) << space;
  for (uint32_t other : {0x1C, 0x180E, 0x200B, 0xFEFF, 0x61}) EXPECT_FALSE(IsUnicodeSpace(other)) << other;
  EXPECT_TRUE(IsPythonSpace(0x1C));
}

TEST(ByteLevelTest, EveryByteHasOneCharacterAndBack) {
  std::string all;
  for (int byte = 0; byte < 256; ++byte) all.push_back(static_cast<char>(byte));
  const std::string spelled = ToByteLevel(all);
  EXPECT_TRUE(IsUtf8(spelled));
  EXPECT_EQ(Utf8Length(spelled), 256);
  EXPECT_EQ(FromByteLevel(spelled), all);
  EXPECT_EQ(ByteLevelCharacter(' '), "\u0120");
  EXPECT_EQ(ByteLevelCharacter('\n'), "\u010a");
  EXPECT_EQ(ByteLevelCharacter(0xAD), "\u0143");
}

TEST(ByteLevelTest, OtherCharactersStandForNoByte) {
  EXPECT_EQ(FromByteLevel("a b"), std::nullopt);
  EXPECT_EQ(FromByteLevel("\u0144"), std::nullopt);
  EXPECT_EQ(FromByteLevel("\uFF5C"), std::nullopt);
}

}  // namespace
}  // namespace conclave
