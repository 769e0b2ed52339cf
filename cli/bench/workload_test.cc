#include "cli/bench/workload.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "cli/bench/random_numbers.h"
#include "cli/bench/summary.h"
#include "moe/base/test_folder.h"

namespace conclave {
namespace {

using ::testing::HasSubstr;

std::vector<double> Lengths(const std::string& text, int count) {
  const auto lengths = LengthDistribution::Parse(text);
  EXPECT_TRUE(lengths.ok()) << lengths.status();
  RandomNumbers random(7, 0);
  std::vector<double> drawn;
  for (int i = 0; i < count; ++i) drawn.push_back(lengths->Draw(random));
  return drawn;
}

TEST(RandomNumbersTest, TheSameSeedAndStreamGiveTheSameNumbers) {
  EXPECT_EQ(RandomNumbers(1, 2).Next(), RandomNumbers(1, 2).Next());
  EXPECT_NE(RandomNumbers(1, 2).Next(), RandomNumbers(1, 3).Next());
  EXPECT_NE(RandomNumbers(1, 2).Next(), RandomNumbers(2, 2).Next());
  EXPECT_NE(RandomNumbers(1, 2).Next(), RandomNumbers(2, 1).Next());
}

TEST(RandomNumbersTest, ExponentialsAndNormalsHaveTheirMoments) {
  RandomNumbers random(3, 0);
  double sum = 0, squares = 0, normal_sum = 0, normal_squares = 0;
  constexpr int kCount = 100000;
  for (int i = 0; i < kCount; ++i) {
    const double x = random.Exponential(), y = random.Normal();
    sum += x;
    squares += x * x;
    normal_sum += y;
    normal_squares += y * y;
  }
  EXPECT_NEAR(sum / kCount, 1, 0.02);
  EXPECT_NEAR(squares / kCount, 2, 0.1);
  EXPECT_NEAR(normal_sum / kCount, 0, 0.02);
  EXPECT_NEAR(normal_squares / kCount, 1, 0.03);
}

TEST(SummaryTest, QuantilesLieBetweenSamplesAsNumPySays) {
  const Summary summary = Summarize({4, 1, 3, 2});
  EXPECT_EQ(summary.count, 4);
  EXPECT_DOUBLE_EQ(summary.mean, 2.5);
  EXPECT_DOUBLE_EQ(summary.p50, 2.5);
  EXPECT_DOUBLE_EQ(summary.p90, 3.7);
  EXPECT_DOUBLE_EQ(summary.p99, 3.97);
  EXPECT_DOUBLE_EQ(summary.max, 4);
  EXPECT_DOUBLE_EQ(Summarize({5}).p99, 5);
  EXPECT_EQ(Summarize({}).count, 0);
  EXPECT_EQ(Summarize({}).p50, 0);
}

TEST(LengthDistributionTest, FixedLengthsAreAllTheSame) {
  for (const char* text : {"9", "fixed:9"}) {
    const Summary summary = Summarize(Lengths(text, 10));
    EXPECT_EQ(summary.mean, 9);
    EXPECT_EQ(summary.max, 9);
  }
}

TEST(LengthDistributionTest, UniformLengthsReachBothEndsEvenly) {
  std::vector<double> lengths = Lengths("uniform:10-13", 4000);
  for (const double length : {10, 11, 12, 13}) {
    EXPECT_NEAR(static_cast<double>(std::count(lengths.begin(), lengths.end(), length)), 1000, 150) << length;
  }
}

TEST(LengthDistributionTest, LogNormalLengthsHaveTheirMedianAndSpreadAndLimit) {
  const Summary summary = Summarize(Lengths("lognormal:200,0.5", 20000));
  EXPECT_NEAR(summary.p50, 200, 5);
  EXPECT_NEAR(summary.p90, 200 * std::exp(0.5 * 1.2816), 10);
  EXPECT_NEAR(summary.mean, 200 * std::exp(0.125), 5);
  EXPECT_EQ(Summarize(Lengths("lognormal:200,0.5,300", 1000)).max, 300);
  EXPECT_GE(Lengths("lognormal:1,3", 1000)[0], 1);
}

TEST(LengthDistributionTest, AnythingElseIsRefused) {
  for (const char* text : {"", "0", "-1", "1.5", "uniform:5", "uniform:5-4", "uniform:0-3", "lognormal:5",
                           "lognormal:5,-1", "lognormal:0,1", "lognormal:5,1,0", "normal:5,1", "99999999999"}) {
    EXPECT_FALSE(LengthDistribution::Parse(text).ok()) << text;
  }
}

class SyntheticWorkloadTest : public ::testing::Test {
 protected:
  SyntheticOptions options;
  const PromptMaker prompts{{11, 12, 13, 14, 15, 16, 17, 18}, 1};
};

TEST_F(SyntheticWorkloadTest, ArrivalsAreAPoissonProcessOfTheRate) {
  options.rate = 50;
  options.requests = 20000;
  const auto workload = NewSyntheticWorkload(options, prompts);
  std::vector<double> gaps;
  double before = 0;
  while (const auto item = workload->Next()) {
    const double seconds = absl::ToDoubleSeconds(item->arrival);
    gaps.push_back(seconds - before);
    before = seconds;
  }
  ASSERT_EQ(gaps.size(), 20000u);
  const Summary summary = Summarize(gaps);
  EXPECT_NEAR(summary.mean, 0.02, 0.0005);
  EXPECT_NEAR(summary.p50, 0.02 * std::log(2.0), 0.0005);
  EXPECT_NEAR(summary.p90, 0.02 * std::log(10.0), 0.002);
}

TEST_F(SyntheticWorkloadTest, TheSameSeedGivesTheSameRequestsAndPromptsDiffer) {
  options.requests = 50;
  options.input = *LengthDistribution::Parse("uniform:20-40");
  options.output = *LengthDistribution::Parse("uniform:1-9");
  const auto first = NewSyntheticWorkload(options, prompts), second = NewSyntheticWorkload(options, prompts);
  std::vector<std::vector<int32_t>> seen;
  for (int i = 0; i < 50; ++i) {
    const auto a = first->Next(), b = second->Next();
    ASSERT_TRUE(a.has_value() && b.has_value());
    EXPECT_EQ(a->prompt, b->prompt);
    EXPECT_EQ(a->output_tokens, b->output_tokens);
    seen.push_back(a->prompt);
  }
  EXPECT_FALSE(first->Next().has_value());
  std::sort(seen.begin(), seen.end());
  EXPECT_EQ(std::unique(seen.begin(), seen.end()), seen.end());
}

TEST_F(SyntheticWorkloadTest, TheSharedPrefixStandsBeforeEachPrompt) {
  options.shared_prefix_tokens = 30;
  options.input = *LengthDistribution::Parse("10");
  const auto workload = NewSyntheticWorkload(options, prompts);
  const auto first = workload->Next(), second = workload->Next();
  ASSERT_EQ(first->prompt.size(), 40u);
  EXPECT_TRUE(std::equal(first->prompt.begin(), first->prompt.begin() + 30, second->prompt.begin()));
  EXPECT_NE(first->prompt, second->prompt);
}

class TraceTest : public ::testing::Test {
 protected:
  std::string Write(const std::string& text) {
    const std::string path = absl::StrCat(TestFolder(), "/trace.jsonl");
    std::ofstream(path) << text;
    return path;
  }
  const PromptMaker prompts{{11, 12, 13, 14, 15, 16, 17, 18}, 1};
};

TEST_F(TraceTest, ArrivalsAreCountedFromTheFirstLineAndScaled) {
  const auto lines =
      ReadTrace(Write("{\"timestamp\": 1000, \"input_length\": 3, \"output_length\": 4, \"x\": 1}\n\n"
                      "{\"timestamp\": 3000.5, \"input_length\": 5, \"output_length\": 6}\n"));
  ASSERT_TRUE(lines.ok()) << lines.status();
  const auto workload = NewTraceWorkload(*lines, 2, 0, prompts);
  const auto first = workload->Next(), second = workload->Next();
  EXPECT_EQ(first->arrival, absl::ZeroDuration());
  EXPECT_EQ(second->arrival, absl::Milliseconds(1000.25));
  EXPECT_EQ(first->prompt.size(), 3u);
  EXPECT_EQ(second->output_tokens, 6);
  EXPECT_FALSE(workload->Next().has_value());
  const auto shorter = NewTraceWorkload(*lines, 1, 1, prompts);
  shorter->Next();
  EXPECT_FALSE(shorter->Next().has_value());
}

TEST_F(TraceTest, BlocksOfTheSameHashAreTheSameTokens) {
  const std::string rest = ", \"output_length\": 1, \"hash_ids\": ";
  const auto lines = ReadTrace(Write(absl::StrCat("{\"timestamp\": 0, \"input_length\": 1100", rest, "[7, 8, 9]}\n",
                                                  "{\"timestamp\": 0, \"input_length\": 1030", rest, "[7, 8, 10]}\n")));
  ASSERT_TRUE(lines.ok()) << lines.status();
  const auto workload = NewTraceWorkload(*lines, 1, 0, prompts);
  const auto a = workload->Next()->prompt, b = workload->Next()->prompt;
  ASSERT_EQ(a.size(), 1100u);
  ASSERT_EQ(b.size(), 1030u);
  EXPECT_TRUE(std::equal(a.begin(), a.begin() + 1024, b.begin()));
  EXPECT_FALSE(std::equal(b.begin() + 1024, b.end(), a.begin() + 1024));
  EXPECT_FALSE(std::equal(a.begin(), a.begin() + 512, a.begin() + 512));
}

TEST_F(TraceTest, ABrokenLineIsNamed) {
  const std::string good = "{\"timestamp\": 5, \"input_length\": 1, \"output_length\": 1}\n";
  for (const auto& [line, complaint] : std::vector<std::pair<std::string, std::string>>{
           {"nonsense", "line 2: is no JSON object"},
           {"[]", "line 2: is no JSON object"},
           {"{\"input_length\": 1, \"output_length\": 1}", "line 2: \"timestamp\""},
           {"{\"timestamp\": -1, \"input_length\": 1, \"output_length\": 1}", "line 2: \"timestamp\""},
           {"{\"timestamp\": 4, \"input_length\": 1, \"output_length\": 1}", "line 2: \"timestamp\" is before"},
           {"{\"timestamp\": 6, \"input_length\": 0, \"output_length\": 1}", "line 2: \"input_length\""},
           {"{\"timestamp\": 6, \"input_length\": 1, \"output_length\": 99999999999}", "line 2: \"output_length\""},
           {"{\"timestamp\": 6, \"input_length\": 1, \"output_length\": 1, \"hash_ids\": [-1]}",
            "line 2: \"hash_ids\""}}) {
    EXPECT_THAT(std::string(ReadTrace(Write(absl::StrCat(good, line, "\n"))).status().message()), HasSubstr(complaint))
        << line;
  }
  EXPECT_THAT(std::string(ReadTrace(Write("")).status().message()), HasSubstr("holds no request"));
  EXPECT_THAT(std::string(ReadTrace("/no/such/trace").status().message()), HasSubstr("/no/such/trace: No such file"));
}

}  // namespace
}  // namespace conclave
