#include "moe/tokenizer/pre_tokenizer.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace conclave {
namespace {

using Strings = std::vector<std::string>;

Regex Compiled(absl::string_view pattern) { return Regex::Compile(pattern).value(); }

Strings Words(const PreTokenizer& pre_tokenizer, absl::string_view text) {
  Strings words;
  PreTokenizer::Scratch scratch;
  pre_tokenizer.ForEachWord(text, &scratch, [&](absl::string_view word) { words.emplace_back(word); });
  return words;
}

Strings SplitAtDashes(SplitBehavior behavior, bool invert) {
  PreTokenizer pre_tokenizer;
  pre_tokenizer.AddSplit(Compiled("-"), behavior, invert);
  return Words(pre_tokenizer, "--the-final--countdown-");
}

// Expected values from Hugging Face tokenizers.
TEST(PreTokenizerTest, BehaviorsAreThoseOfHuggingFace) {
  using B = SplitBehavior;
  EXPECT_EQ(SplitAtDashes(B::kRemoved, false), Strings({"the", "final", "countdown"}));
  EXPECT_EQ(SplitAtDashes(B::kRemoved, true), Strings({"-", "-", "-", "-", "-", "-"}));
  EXPECT_EQ(SplitAtDashes(B::kIsolated, false), Strings({"-", "-", "the", "-", "final", "-", "-", "countdown", "-"}));
  EXPECT_EQ(SplitAtDashes(B::kMergedWithPrevious, false), Strings({"-", "-", "the-", "final-", "-", "countdown-"}));
  EXPECT_EQ(SplitAtDashes(B::kMergedWithPrevious, true), Strings({"-", "-the", "-final", "-", "-countdown", "-"}));
  EXPECT_EQ(SplitAtDashes(B::kMergedWithNext, false), Strings({"-", "-the", "-final", "-", "-countdown", "-"}));
  EXPECT_EQ(SplitAtDashes(B::kMergedWithNext, true), Strings({"-", "-", "the-", "final-", "-", "countdown-"}));
  EXPECT_EQ(SplitAtDashes(B::kContiguous, false), Strings({"--", "the", "-", "final", "--", "countdown", "-"}));
  EXPECT_EQ(SplitAtDashes(B::kContiguous, true), Strings({"--", "the", "-", "final", "--", "countdown", "-"}));
}

TEST(PreTokenizerTest, EachStageSeesThePiecesOfTheOneBefore) {
  PreTokenizer pre_tokenizer;
  pre_tokenizer.AddSplit(Compiled("\n"), SplitBehavior::kIsolated, /*invert=*/false);
  pre_tokenizer.AddSplit(Compiled("b$"), SplitBehavior::kIsolated, /*invert=*/false);
  EXPECT_EQ(Words(pre_tokenizer, "abb\nb"), Strings({"ab", "b", "\n", "b"}));
}

TEST(PreTokenizerTest, PrefixSpacesGoBeforePiecesThatHaveNone) {
  PreTokenizer pre_tokenizer;
  pre_tokenizer.AddSplit(Compiled(","), SplitBehavior::kIsolated, /*invert=*/false);
  pre_tokenizer.AddPrefixSpace();
  EXPECT_EQ(Words(pre_tokenizer, "a, b"), Strings({" a", " ,", " b"}));
  EXPECT_EQ(Words(pre_tokenizer, ""), Strings());
}

}  // namespace
}  // namespace conclave
