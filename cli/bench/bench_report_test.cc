#include "cli/bench/bench_report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <nlohmann/json.hpp>
#include <string>

namespace conclave {
namespace {

using std::chrono::milliseconds;
using ::testing::HasSubstr;
using ::testing::Not;

const Instant kStart{};

// A request that should have gone out at 0 ms, went out at 1 ms, and got its pieces at the times given.
RequestRecord Answered(const std::vector<int>& pieces_ms, int end_ms) {
  RequestRecord record;
  record.intended = kStart;
  record.sent = kStart + milliseconds(1);
  for (const int ms : pieces_ms) record.AddPiece(kStart + milliseconds(ms));
  record.input_tokens = 10;
  record.output_tokens = static_cast<int64_t>(pieces_ms.size());
  record.Finish(Outcome::kAnswered, kStart + milliseconds(end_ms));
  return record;
}

LoadResult Result() {
  LoadResult result;
  result.elapsed = absl::Seconds(2);
  result.cpu_seconds = 0.5;
  result.records.push_back(Answered({100, 120, 160}, 170));
  result.records.push_back(Answered({300, 310, 410}, 420));
  RequestRecord refused;
  refused.intended = refused.sent = kStart;
  refused.retry_after = absl::Seconds(1);
  refused.Finish(Outcome::kRefused, kStart + milliseconds(7));
  result.records.push_back(refused);
  refused.retry_after.reset();
  result.records.push_back(refused);
  for (const char* why : {"rare", "common", "common"}) {
    RequestRecord failed = Answered({50}, 60);
    failed.Fail(why, kStart + milliseconds(60));
    result.records.push_back(failed);
  }
  return result;
}

TEST(BenchReportTest, LatenciesAreThoseOfAnsweredRequestsFromTheirIntendedTime) {
  const BenchFigures figures = FiguresOf(Result(), Slo());
  EXPECT_EQ(figures.sent, 7);
  EXPECT_EQ(figures.answered, 2);
  EXPECT_EQ(figures.refused, 2);
  EXPECT_EQ(figures.errors, 3);
  EXPECT_EQ(figures.ttft_ms.count, 2);
  EXPECT_DOUBLE_EQ(figures.ttft_ms.mean, 200);
  EXPECT_DOUBLE_EQ(figures.e2e_ms.mean, 295);
  EXPECT_EQ(figures.itl_ms.count, 4);
  EXPECT_NEAR(figures.itl_ms.mean, (20 + 40 + 10 + 100) / 4.0, 1e-4);
  EXPECT_NEAR(figures.itl_ms.max, 100, 1e-4);
  EXPECT_NEAR(figures.tpot_ms.mean, (30 + 55) / 2.0, 1e-9);
  EXPECT_EQ(figures.output_tokens, 6);
  EXPECT_EQ(figures.input_tokens, 20);
  EXPECT_DOUBLE_EQ(figures.refusal_ms.mean, 7);
  EXPECT_DOUBLE_EQ(figures.retry_after_ms.mean, 1000);
  EXPECT_EQ(figures.refusals_without_retry_after, 1);
  EXPECT_DOUBLE_EQ(figures.generator_cores, 0.25);
  EXPECT_EQ(figures.error_counts.front(), std::make_pair(std::string("common"), int64_t{2}));
}

TEST(BenchReportTest, GoodputCountsWhatMeetsEveryBound) {
  const auto good = [](const char* slo) { return FiguresOf(Result(), *Slo::Parse(slo)).good; };
  EXPECT_EQ(good(""), 2);
  EXPECT_EQ(good("ttft=100ms"), 1);
  EXPECT_EQ(good("ttft=99ms"), 0);
  EXPECT_EQ(good("itl=40ms"), 1);
  EXPECT_EQ(good("itl=39ms"), 0);
  EXPECT_EQ(good("tpot=55ms"), 2);
  EXPECT_EQ(good("tpot=54ms"), 1);
  EXPECT_EQ(good("e2e=1s"), 2);
  EXPECT_EQ(good("e2e=1s,itl=50ms"), 1);
}

TEST(BenchReportTest, BoundsThatAreNoneAreRefused) {
  for (const char* text : {"ttft", "ttft=", "ttft=5", "ttft=-5ms", "p99=5ms", "ttft=inf", "ttft=0s"}) {
    EXPECT_THAT(std::string(Slo::Parse(text).status().message()), HasSubstr("takes bounds such as")) << text;
  }
  EXPECT_FALSE(Slo::Parse("")->any());
  EXPECT_TRUE(Slo::Parse("itl=5ms")->any());
}

TEST(BenchReportTest, TextTellsErrorsRefusalsAndLateness) {
  const std::string text = ToText(FiguresOf(Result(), *Slo::Parse("ttft=100ms")), true);
  EXPECT_THAT(text, HasSubstr("7 requests in 2.0 s: 2 answered, 2 refused, 3 failed"));
  EXPECT_THAT(text, HasSubstr("throughput  1.00 requests/s, 3.0 output tokens/s, 10.0 input tokens/s\n"));
  EXPECT_THAT(text, HasSubstr("goodput     0.50 requests/s, 1.5 output tokens/s (1 of 7 sent met the SLO)"));
  EXPECT_THAT(text, HasSubstr("2 x common\n1 x rare\n"));
  EXPECT_THAT(text, HasSubstr("1 refusals did not say when"));
  EXPECT_THAT(text, HasSubstr("0.25 cores"));
  EXPECT_THAT(text, Not(HasSubstr("went out late")));
  EXPECT_THAT(ToText(FiguresOf(Result(), Slo()), false), Not(HasSubstr("goodput")));
}

TEST(BenchReportTest, AGeneratorThatIsLateSaysSo) {
  LoadResult result = Result();
  for (RequestRecord& record : result.records) record.sent = record.intended + milliseconds(20);
  EXPECT_THAT(ToText(FiguresOf(result, Slo()), false), HasSubstr("went out late"));
}

TEST(BenchReportTest, JsonHoldsTheSameFigures) {
  const auto json =
      nlohmann::json::parse(ToJson(FiguresOf(Result(), *Slo::Parse("ttft=100ms")), true, {{"seed", "1"}}));
  EXPECT_EQ(json["setup"]["seed"], "1");
  EXPECT_EQ(json["requests_answered"], 2);
  EXPECT_EQ(json["requests_good"], 1);
  EXPECT_EQ(json["ttft_ms"]["p50"], 200);
  EXPECT_EQ(json["refusal_ms"]["count"], 2);
  EXPECT_EQ(json["errors"][0]["error"], "common");
  EXPECT_EQ(json["errors"][0]["count"], 2);
}

TEST(BenchReportTest, ARunWithoutRequestsHasFiguresToo) {
  const BenchFigures figures = FiguresOf(LoadResult(), Slo());
  EXPECT_EQ(figures.sent, 0);
  EXPECT_THAT(ToText(figures, true), HasSubstr("0 requests in 0.0 s"));
  EXPECT_TRUE(nlohmann::json::accept(ToJson(figures, true, {})));
}

}  // namespace
}  // namespace conclave
