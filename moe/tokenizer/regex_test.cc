#include "moe/tokenizer/regex.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "absl/strings/match.h"

namespace conclave {
namespace {

std::vector<std::string> Matches(absl::string_view pattern, absl::string_view text) {
  const auto regex = Regex::Compile(pattern);
  EXPECT_TRUE(regex.ok()) << regex.status();
  std::vector<std::string> found;
  RegexScratch scratch;
  if (regex.ok()) {
    regex->ForEachMatch(text, &scratch,
                        [&](size_t begin, size_t end) { found.emplace_back(text.substr(begin, end - begin)); });
  }
  return found;
}
using Strings = std::vector<std::string>;

// What Oniguruma finds, where PCRE2 left to itself would find something else.
TEST(RegexTest, MeansWhatOnigurumaMeans) {
  EXPECT_EQ(Matches(R"(\s+)", "a\u180eb \u3000"), Strings({" \u3000"}));
  EXPECT_EQ(Matches(R"([^\S\n]+)", "a \n\u180e"), Strings({" "}));
  EXPECT_EQ(Matches(R"(\p{Han}+)", "a\u3007\u4e2d\u3001b"), Strings({"\u3007\u4e2d"}));  // not U+3001
  EXPECT_EQ(Matches(R"([\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+)", "ABc\u4e2d\u30ab"), Strings({"AB", "\u30ab"}));
  EXPECT_EQ(Matches("^b", "a\nb"), Strings({"b"}));
  EXPECT_EQ(Matches("a*", "baab"), Strings({"", "aa", ""}));
  EXPECT_EQ(Matches(R"((?i:'s))", "x'\u017f"), Strings({"'\u017f"}));
}

TEST(RegexTest, SpacesAtTheEndOfALine) {
  EXPECT_EQ(Matches(R"(\s+$)", "a  \nb  "), Strings({"  ", "  "}));
  EXPECT_EQ(Matches(R"(\s+$)", "a \n\n b"), Strings({" \n"}));
}

TEST(RegexTest, RefusesWhatWouldMeanSomethingElse) {
  for (const char* pattern : {R"(\w+)",
                              R"(\bx)",
                              R"(\h)",
                              R"(\Kx)",
                              R"((a)\1)",
                              "(?m:.)",
                              "(?x)a #b",
                              "(*UTF)a",
                              "[a[b]]",
                              "[a&&b]",
                              "[a&&[^b]]",
                              "[[:alpha:]]",
                              "x{,3}",
                              "x{1,2}+",
                              R"(\p{})",
                              R"(\p{Script=Han})",
                              R"(\)",
                              "[a",
                              R"(\p{Lu)",
                              "[^a&&[^b]]",
                              R"([\p{Lu}&&[^\p{Han}])"}) {
    const absl::Status status = Regex::Compile(pattern).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << pattern;
    EXPECT_TRUE(absl::StrContains(status.message(), "pattern")) << status;
  }
  for (const char* pattern : {"(a", "a)", "+", R"(\p{Klingon})", "\xFF"}) {
    EXPECT_FALSE(Regex::Compile(pattern).ok()) << pattern;
  }
  EXPECT_FALSE(Regex::Compile(std::string(1 << 17, 'a')).ok());
}

TEST(RegexTest, LiteralsAreNotPatterns) {
  const auto regex = Regex::CompileLiteral("a.*[\\");
  ASSERT_TRUE(regex.ok()) << regex.status();
  int matches = 0;
  RegexScratch scratch;
  regex->ForEachMatch("a.*[\\ abc a.*[\\", &scratch, [&](size_t, size_t) { ++matches; });
  EXPECT_EQ(matches, 2);
}

TEST(RegexTest, AMegabyteOfOneKindIsOneMatch) {
  const size_t size = 1 << 20;
  EXPECT_EQ(Matches(R"([^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+)", std::string(size, 'a')).size(), 1u);
  EXPECT_EQ(Matches(R"(\s*[\r\n]+|\s+(?!\S)|\s+)", std::string(size, ' ') + "x").size(), 2u);
  EXPECT_EQ(Matches(R"([\p{Ll}\p{Lo}&&[^\p{Han}]]+)", std::string(size, 'a')).size(), 1u);
  // Without the rewriting this would be 10^12 steps.
  EXPECT_EQ(Matches(R"(\s+$)", std::string(size, ' ') + "x").size(), 0u);
}

TEST(RegexTest, ASearchBeyondTheLimitsEndsTheList) {
  EXPECT_EQ(Matches("(a+)+b", std::string(1 << 12, 'a')).size(), 0u);
}

}  // namespace
}  // namespace conclave
