#include "cli/bench/load_runner.h"

#include <gtest/gtest.h>

#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <memory>
#include <optional>
#include <set>
#include <utility>
#include <vector>

namespace conclave {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

// Answers after a fixed time, and refuses what its places have no room for.
class FakeClient final : public LoadClient {
 public:
  FakeClient(boost::asio::io_context& context, milliseconds service, int places)
      : context_(context), service_(service), places_(places) {}

  absl::StatusOr<ServedModel> Discover(absl::string_view) override { return ServedModel(); }
  void SetOptions(const RequestOptions&) override {}
  void CancelAll() override {
    for (const auto& timer : timers_) timer->cancel();
  }

  void Start(const WorkItem& item, RequestRecord* record, std::function<void()> done) override {
    record->sent = steady_clock::now();
    running_max = std::max(running_max, ++running_);
    const bool refused = running_ > places_;
    const auto timer = std::make_shared<boost::asio::steady_timer>(context_, refused ? milliseconds(0) : service_);
    timers_.insert(timer);
    timer->async_wait([this, timer, record, refused, done = std::move(done)](const boost::system::error_code& error) {
      timers_.erase(timer);
      --running_;
      if (refused) record->retry_after = retry_after;
      record->output_tokens = 1;
      record->AddPiece(steady_clock::now());
      record->Finish(error ? Outcome::kError : refused ? Outcome::kRefused : Outcome::kAnswered, steady_clock::now());
      done();
    });
  }

  int running_max = 0;
  std::optional<absl::Duration> retry_after;

 private:
  boost::asio::io_context& context_;
  const milliseconds service_;
  const int places_;
  int running_ = 0;
  std::set<std::shared_ptr<boost::asio::steady_timer>> timers_;
};

// `count` requests, one every `gap`.
class EvenWorkload final : public Workload {
 public:
  EvenWorkload(int count, absl::Duration gap) : count_(count), gap_(gap) {}
  std::optional<WorkItem> Next() override {
    if (made_ == count_) return std::nullopt;
    WorkItem item;
    item.arrival = gap_ * made_++;
    return item;
  }

 private:
  const int count_;
  const absl::Duration gap_;
  int made_ = 0;
};

int CountOf(const LoadResult& result, Outcome outcome) {
  int count = 0;
  for (const RequestRecord& record : result.records) count += record.outcome == outcome ? 1 : 0;
  return count;
}

class LoadRunnerTest : public ::testing::Test {
 protected:
  boost::asio::io_context context;
  LoadPlan plan;
};

TEST_F(LoadRunnerTest, AClosedLoopKeepsItsConcurrencyAndSendsEverything) {
  FakeClient client(context, milliseconds(5), 100);
  EvenWorkload workload(20, absl::Hours(1));  // arrivals do not matter
  plan.concurrency = 4;
  const LoadResult result = RunLoad(context, client, workload, plan, nullptr);
  EXPECT_EQ(CountOf(result, Outcome::kAnswered), 20);
  EXPECT_EQ(client.running_max, 4);
  EXPECT_GE(result.elapsed, absl::Milliseconds(25));
}

TEST_F(LoadRunnerTest, AnOpenLoopSendsAtTheArrivalsWhetherOrNotOthersEnd) {
  FakeClient client(context, milliseconds(200), 100);
  EvenWorkload workload(10, absl::Milliseconds(10));
  plan.open_loop = true;
  plan.concurrency = 100;
  const LoadResult result = RunLoad(context, client, workload, plan, nullptr);
  EXPECT_EQ(CountOf(result, Outcome::kAnswered), 10);
  EXPECT_GE(client.running_max, 5);  // all ten where the machine is not busy
  for (size_t i = 0; i < result.records.size(); ++i) {
    EXPECT_EQ(result.records[i].intended - result.records[0].intended, milliseconds(10) * i);
    EXPECT_GE(result.records[i].sent, result.records[i].intended);
  }
}

TEST_F(LoadRunnerTest, WhatHasToWaitForAPlaceIsMeasuredFromWhenItShouldHaveBeenSent) {
  FakeClient client(context, milliseconds(50), 100);
  EvenWorkload workload(4, absl::ZeroDuration());
  plan.open_loop = true;
  plan.concurrency = 1;
  const LoadResult result = RunLoad(context, client, workload, plan, nullptr);
  ASSERT_EQ(result.records.size(), 4u);
  EXPECT_GE(result.records[3].lateness_ms(), 150);
  EXPECT_GE(result.records[3].e2e_ms(), 200);
  EXPECT_GE(result.records[3].ttft_ms(), 200);
}

TEST_F(LoadRunnerTest, NothingIsSentAfterTheDurationAndWhatRunsIsAwaited) {
  FakeClient client(context, milliseconds(30), 100);
  EvenWorkload workload(1000000, absl::Milliseconds(10));
  plan.duration = absl::Milliseconds(95);
  plan.concurrency = 1000;
  plan.open_loop = true;
  const LoadResult open = RunLoad(context, client, workload, plan, nullptr);
  EXPECT_EQ(open.records.size(), 10u);
  EXPECT_EQ(CountOf(open, Outcome::kAnswered), 10);
  plan.open_loop = false;
  plan.concurrency = 2;
  const LoadResult closed = RunLoad(context, client, workload, plan, nullptr);
  EXPECT_GE(closed.records.size(), 2u);
  EXPECT_LE(closed.records.size(), 8u);
  EXPECT_EQ(CountOf(closed, Outcome::kAnswered), static_cast<int>(closed.records.size()));
}

TEST_F(LoadRunnerTest, WhatCameBeforeTheEndAndFoundNoPlaceIsSentAllTheSame) {
  FakeClient client(context, milliseconds(20), 100);
  EvenWorkload workload(1000000, absl::Milliseconds(1));
  plan.duration = absl::Milliseconds(20);
  plan.concurrency = 2;
  plan.open_loop = true;
  const LoadResult result = RunLoad(context, client, workload, plan, nullptr);
  EXPECT_EQ(CountOf(result, Outcome::kAnswered), 20);
  EXPECT_GE(result.records.back().lateness_ms(), 150);
}

TEST_F(LoadRunnerTest, WhoIsRefusedWaitsAsLongAsItWasTold) {
  FakeClient client(context, milliseconds(20), 1);
  client.retry_after = absl::Milliseconds(40);
  EvenWorkload workload(1000000, absl::ZeroDuration());
  plan.concurrency = 2;
  plan.duration = absl::Milliseconds(200);
  const int obeying = CountOf(RunLoad(context, client, workload, plan, nullptr), Outcome::kRefused);
  // Each of the two places is refused at most once in 40 of the 200 milliseconds, and once at their end.
  EXPECT_GE(obeying, 1);
  EXPECT_LE(obeying, 12);
  plan.obey_retry_after = false;
  int heedless = 0;  // 20, but fewer where the machine stands still meanwhile
  for (int i = 0; i < 20 && heedless <= 12; ++i) {
    heedless = CountOf(RunLoad(context, client, workload, plan, nullptr), Outcome::kRefused);
  }
  EXPECT_GT(heedless, 12);
}

TEST_F(LoadRunnerTest, ProgressCountsWhatHasEnded) {
  FakeClient client(context, milliseconds(5), 1);
  EvenWorkload workload(1000000, absl::ZeroDuration());
  plan.concurrency = 1;
  plan.duration = absl::Milliseconds(700);
  std::vector<LoadProgress> seen;
  RunLoad(context, client, workload, plan, [&seen](const LoadProgress& progress) { seen.push_back(progress); });
  ASSERT_GE(seen.size(), 2u);
  EXPECT_EQ(seen[0].answered, 0);
  EXPECT_GT(seen[1].answered, 0);
  EXPECT_EQ(seen[1].output_tokens, seen[1].answered);
}

}  // namespace
}  // namespace conclave
