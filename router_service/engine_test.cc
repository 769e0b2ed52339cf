#include "router_service/engine.h"

#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "absl/time/clock.h"
#include "moe/base/clock.h"
#include "moe/metrics/metrics.h"
#include "router_service/engine_testing.h"
#include "router_service/fake_transformer.h"

namespace conclave {
namespace {

TEST(EngineTest, GivesTheSameAnswerAloneOrBesideOthersWholeOrInChunksAndThroughPreemption) {
  for (int chunk : {1, 3, 16, 64}) {
    for (int64_t kv_bytes : {kLeastKvBytes, 9 * kBlockBytes, 64 * kBlockBytes}) {
      EngineOptions options = TestEngineOptions();
      options.prefill_chunk_tokens_max = chunk;
      options.kv_bytes = kv_bytes;
      auto engine = MakeEngine(options);
      std::vector<EngineRequest> requests;
      for (int i = 0; i < 12; ++i) {
        // Short prompts with long answers are admitted together and then outgrow a small cache.
        requests.push_back(i % 2 == 0 ? TestRequest(2 + i, 80, i) : TestRequest(1 + (i * 17) % 70, 30, i));
        requests.back().sampling.temperature = i % 2 == 0 ? 0.0f : 0.8f;
        requests.back().sampling.seed = i;
        requests.back().ignore_eos = i % 3 != 0;
      }
      std::vector<Answer> answers(requests.size());
      for (size_t i = 0; i < requests.size(); ++i) {
        ASSERT_TRUE(engine->Submit(requests[i], answers[i].Callback()).ok());
      }
      for (size_t i = 0; i < requests.size(); ++i) {
        SCOPED_TRACE(testing::Message() << "request " << i << ", chunk " << chunk << ", KV bytes " << kv_bytes);
        ExpectAnswer(answers[i], requests[i]);
      }
      EXPECT_EQ(engine->stats().kv_blocks_held(), 0);
      EXPECT_EQ(engine->stats().preemptions > 0, kv_bytes < 64 * kBlockBytes) << chunk << ", " << kv_bytes;
    }
  }
}

TEST(EngineTest, ReportsStopAtTheEosIdAndLengthAtTheLimits) {
  auto engine = MakeEngine();
  Answer stop, length, context;
  EngineRequest endless = TestRequest(5, 90, 3);
  endless.ignore_eos = false;
  endless.sampling.temperature = 5.0f;
  while (ExpectedOf(endless).ids.back() != 60) ++endless.sampling.seed;
  ASSERT_TRUE(engine->Submit(endless, stop.Callback()).ok());
  ASSERT_TRUE(engine->Submit(TestRequest(5, 7), length.Callback()).ok());
  ASSERT_TRUE(engine->Submit(TestRequest(90, 50), context.Callback()).ok());
  EXPECT_EQ(stop.Wait().finish, FinishReason::kStop);
  EXPECT_EQ(stop.ids(), ExpectedOf(endless).ids);
  EXPECT_EQ(length.Wait().finish, FinishReason::kLength);
  EXPECT_EQ(length.ids().size(), 7u);
  EXPECT_EQ(context.Wait().finish, FinishReason::kLength);
  EXPECT_EQ(context.ids().size(), 6u);
}

class Recorder final : public SequenceObserver {
 public:
  void OnPromptLogits(int32_t first_position, ConstMatView rows) override {
    EXPECT_EQ(first_position, static_cast<int32_t>(logits.size()));
    for (int64_t row = 0; row < rows.rows; ++row) {
      logits.emplace_back(rows.Row<float>(row), rows.Row<float>(row) + rows.cols);
    }
  }
  void OnPromptRouting(LayerId layer, int32_t first_position, const Routing& routing) override {
    EXPECT_EQ(layer, LayerId{1});
    EXPECT_EQ(first_position * routing.top_k, static_cast<int32_t>(experts.size()));
    experts.insert(experts.end(), routing.experts.begin(), routing.experts.end());
    weights.insert(weights.end(), routing.weights.begin(), routing.weights.end());
  }
  std::vector<std::vector<float>> logits;
  std::vector<int32_t> experts;
  std::vector<float> weights;
};

TEST(EngineTest, ShowsEveryPromptRowToTheObserverExactlyOnce) {
  for (int chunk : {1, 5, 64}) {
    for (int64_t kv_bytes : {kLeastKvBytes, 64 * kBlockBytes}) {
      EngineOptions options = TestEngineOptions();
      options.batch_tokens_max = 20;
      options.prefill_chunk_tokens_max = chunk;
      options.kv_bytes = kv_bytes;
      auto engine = MakeEngine(options);
      std::vector<Recorder> recorders(4);
      std::vector<Answer> answers(4);
      std::vector<EngineRequest> requests;
      for (int i = 0; i < 4; ++i) {
        requests.push_back(TestRequest(4 + 13 * (i % 2), 70, 40 + i));
        requests[i].observer = &recorders[i];
        ASSERT_TRUE(engine->Submit(requests[i], answers[i].Callback()).ok());
      }
      for (int i = 0; i < 4; ++i) {
        ExpectAnswer(answers[i], requests[i]);
        const auto& prompt = requests[i].prompt_ids;
        ASSERT_EQ(recorders[i].logits.size(), prompt.size());
        ASSERT_EQ(recorders[i].experts.size(), 2 * prompt.size());
        for (size_t row = 0; row < prompt.size(); ++row) {
          EXPECT_EQ(recorders[i].logits[row], FakeLogits(absl::MakeConstSpan(prompt).first(row + 1)));
          const auto experts = FakeExperts(prompt[row], static_cast<int32_t>(row));
          EXPECT_EQ(recorders[i].experts[2 * row], experts[0]);
          EXPECT_EQ(recorders[i].experts[2 * row + 1], experts[1]);
          EXPECT_EQ(recorders[i].weights[2 * row + 1], row + 0.5f);
        }
      }
      EXPECT_EQ(engine->stats().preemptions > 0, kv_bytes == kLeastKvBytes);
    }
  }
}

TEST(EngineTest, CountsTheRowsOfEveryExpert) {
  auto engine = MakeEngine();
  Answer first, second;
  const EngineRequest request = TestRequest(20, 10), other = TestRequest(33, 5, 8);
  ASSERT_TRUE(engine->Submit(request, first.Callback()).ok());
  ASSERT_TRUE(engine->Submit(other, second.Callback()).ok());
  first.Wait();
  second.Wait();
  const auto totals = engine->ExpertTokens();
  ASSERT_EQ(totals.size(), 2u);
  EXPECT_TRUE(totals[0].empty());
  const auto expected = ExpectedOf(request).expert_use, beside = ExpectedOf(other).expert_use;
  for (int expert = 0; expert < 5; ++expert) EXPECT_EQ(totals[1][expert], expected[expert] + beside[expert]);
}

TEST(EngineTest, AFailedStepEndsItsSequencesWithThatStatusAndTheEngineGoesOn) {
  std::atomic<bool> fail{true};
  auto engine = MakeEngine(TestEngineOptions(), [&](absl::Span<const SequenceSlice>) {
    return fail ? absl::UnavailableError("layer 1: no shard holds expert 3") : absl::OkStatus();
  });
  Answer broken, good;
  ASSERT_TRUE(engine->Submit(TestRequest(20, 10), broken.Callback()).ok());
  const TokenEvent& event = broken.Wait();
  EXPECT_EQ(event.status, absl::UnavailableError("layer 1: no shard holds expert 3"));
  EXPECT_EQ(event.token, -1);
  EXPECT_EQ(engine->stats().kv_blocks_held(), 0);
  EXPECT_EQ(engine->stats().running, 0);
  fail = false;
  const EngineRequest request = TestRequest(20, 10);
  ASSERT_TRUE(engine->Submit(request, good.Callback()).ok());
  ExpectAnswer(good, request);
}

TEST(EngineTest, LogitsThatAreNotNumbersEndOnlyTheirOwnSequenceAndAreCounted) {
  Gate gate;
  const auto metrics = Metrics::Create();
  EngineOptions options = TestEngineOptions();
  options.metrics = metrics.get();
  auto engine = MakeEngine(options, gate.Hook());
  EngineRequest poisoned = TestRequest(10, 10);
  poisoned.prompt_ids.back() = kPoisonToken;
  const EngineRequest healthy = TestRequest(12, 20, 5);
  Answer bad, good;
  ASSERT_TRUE(engine->Submit(healthy, good.Callback()).ok());
  gate.WaitForStep(1);
  ASSERT_TRUE(engine->Submit(poisoned, bad.Callback()).ok());
  gate.Open();
  EXPECT_EQ(bad.Wait().status.code(), absl::StatusCode::kInternal);
  EXPECT_NE(bad.Wait().status.message().find("token 7"), std::string::npos) << bad.Wait().status;
  ExpectAnswer(good, healthy);
  EXPECT_EQ(engine->stats().kv_blocks_held(), 0);
  EXPECT_NE(metrics->Text().find("conclave_router_not_finite_total 1\n"), std::string::npos);
}

TEST(EngineTest, CancelEndsASequenceWithinOneStep) {
  Gate gate;
  auto engine = MakeEngine(TestEngineOptions(), gate.Hook());
  Answer running, queued;
  const auto id = engine->Submit(TestRequest(10, 80), running.Callback());
  ASSERT_TRUE(id.ok());
  gate.WaitForStep(1);
  const auto late = engine->Submit(TestRequest(10, 80), queued.Callback());
  engine->Cancel(*id);
  engine->Cancel(*id);
  engine->Cancel(*late);
  engine->Cancel(SequenceId{12345});
  gate.Step();
  EXPECT_EQ(running.Wait().status.code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(running.ids().size(), 1u) << "the step that was under way";
  EXPECT_EQ(queued.Wait().status.code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(gate.steps(), 1);
  EXPECT_EQ(engine->stats().kv_blocks_held(), 0);
  engine->Cancel(*id);
}

TEST(EngineTest, EndsASequenceWhoseDeadlinePasses) {
  Gate gate;
  FakeClock clock;
  auto engine = MakeEngine(TestEngineOptions(), gate.Hook(), &clock);
  EngineRequest request = TestRequest(10, 80);
  request.deadline = clock.Now() + absl::Seconds(3);
  Answer answer;
  ASSERT_TRUE(engine->Submit(request, answer.Callback()).ok());
  gate.Step();
  gate.WaitForStep(2);
  clock.Advance(absl::Seconds(3));
  gate.Step();
  EXPECT_EQ(answer.Wait().status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(answer.ids().size(), 2u);
  EXPECT_EQ(engine->stats().kv_blocks_held(), 0);
  gate.Open();
}

TEST(EngineTest, RefusesWhatIsBeyondTheQueueAtOnce) {
  Gate gate;
  EngineOptions options = TestEngineOptions();
  options.sequences_running_max = 2;
  options.sequences_queued_max = 3;
  auto engine = MakeEngine(options, gate.Hook());
  std::vector<Answer> answers(5);
  for (Answer& answer : answers) ASSERT_TRUE(engine->Submit(TestRequest(5, 3), answer.Callback()).ok());
  EXPECT_EQ(engine->Submit(TestRequest(5, 3), [](const TokenEvent&) {}).status().code(),
            absl::StatusCode::kResourceExhausted);
  gate.WaitForStep(1);
  const EngineStats stats = engine->stats();
  EXPECT_EQ(stats.queued + stats.running, 5);
  EXPECT_EQ(stats.kv_blocks_total, 12) << "no more than two sequences can fill";
  gate.Open();
  for (Answer& answer : answers) EXPECT_TRUE(answer.Wait().status.ok());
  Answer again;
  EXPECT_TRUE(engine->Submit(TestRequest(5, 3), again.Callback()).ok());
  again.Wait();
}

TEST(EngineTest, ExpertsSeeToTheirConnectionsWhileNobodyAsks) {
  struct Experts final : public NoExperts {
    void Idle() override { ++idle; }
    std::atomic<int> idle{0};
  };
  Experts experts;
  auto engine = MakeEngine(TestEngineOptions(), nullptr, Clock::Real(), &experts);
  while (experts.idle < 2) absl::SleepFor(absl::Milliseconds(1));
  Answer answer;
  const EngineRequest request = TestRequest(5, 3);
  ASSERT_TRUE(engine->Submit(request, answer.Callback()).ok());
  ExpectAnswer(answer, request);
  const int after = experts.idle;
  while (experts.idle == after) absl::SleepFor(absl::Milliseconds(1));
}

// A transformer whose step waits for experts that no shard has, for as long as the test wants.
class Stall {
 public:
  FakeTransformer::AtExperts Hook() {
    return [this](absl::Span<const SequenceSlice>) -> absl::Status {
      ++tries_;
      while (stalled_) {
        if (experts_.ask()) return absl::CancelledError("abandoned");
        absl::SleepFor(absl::Milliseconds(1));
      }
      return absl::OkStatus();
    };
  }
  ExpertPool* experts() { return &experts_; }
  void WaitForTry(int number) {
    while (tries_ < number) absl::SleepFor(absl::Milliseconds(1));
  }
  void End() { stalled_ = false; }
  // Since when the steps so far were said to be waited for.
  const std::vector<absl::Time>& since() const { return experts_.since; }

 private:
  struct Experts final : public NoExperts {
    void SetDeadline(absl::Time, absl::Time first_try) override { since.push_back(first_try); }
    void AskWhileStalled(std::function<bool()> abandon) override { ask = std::move(abandon); }
    std::function<bool()> ask;
    std::vector<absl::Time> since;
  };
  Experts experts_;
  std::atomic<bool> stalled_{true};
  std::atomic<int> tries_{0};
};

TEST(EngineTest, CancellationsAndDeadlinesHoldWhileNoShardAnswers) {
  Stall stall;
  auto engine = MakeEngine(TestEngineOptions(), stall.Hook(), Clock::Real(), stall.experts());
  const absl::Time begin = absl::Now();
  Answer stays, cancelled, late;
  const EngineRequest request = TestRequest(20, 10);
  ASSERT_TRUE(engine->Submit(request, stays.Callback()).ok());
  stall.WaitForTry(1);
  const auto id = engine->Submit(TestRequest(33, 5, 8), cancelled.Callback());
  ASSERT_TRUE(id.ok());
  engine->Cancel(*id);
  EXPECT_EQ(cancelled.Wait().status.code(), absl::StatusCode::kCancelled);
  stall.WaitForTry(2);
  EngineRequest hurried = TestRequest(12, 5, 9);
  hurried.deadline = absl::Now() + absl::Milliseconds(30);
  ASSERT_TRUE(engine->Submit(hurried, late.Callback()).ok());
  EngineRequest gone = TestRequest(7, 5, 10);
  Answer leaves;
  const auto leaving = engine->Submit(gone, leaves.Callback());
  ASSERT_TRUE(leaving.ok());
  engine->Cancel(*leaving);  // lets the engine see `late`
  EXPECT_EQ(leaves.Wait().status.code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(late.Wait().status.code(), absl::StatusCode::kDeadlineExceeded);
  stall.End();
  // Rows that were tried several times are booked once.
  ExpectAnswer(stays, request);
  engine.reset();
  ASSERT_GE(stall.since().size(), 4u);
  EXPECT_EQ(stall.since().front(), absl::InfiniteFuture());
  EXPECT_GE(stall.since()[1], begin);
  EXPECT_EQ(stall.since()[2], stall.since()[1]) << "the wait goes on, it does not begin anew";
  EXPECT_EQ(stall.since().back(), absl::InfiniteFuture());
}

TEST(EngineTest, AnEngineThatWaitsForShardsCanBeEnded) {
  Stall stall;
  auto engine = MakeEngine(TestEngineOptions(), stall.Hook(), Clock::Real(), stall.experts());
  Answer answer;
  ASSERT_TRUE(engine->Submit(TestRequest(20, 10), answer.Callback()).ok());
  stall.WaitForTry(1);
  engine.reset();
  EXPECT_EQ(answer.Wait().status.code(), absl::StatusCode::kCancelled);
}

TEST(EngineTest, DrainFinishesWhatRunsAndRefusesWhatComes) {
  Gate gate;
  auto engine = MakeEngine(TestEngineOptions(), gate.Hook());
  Answer answer;
  const EngineRequest request = TestRequest(10, 20);
  ASSERT_TRUE(engine->Submit(request, answer.Callback()).ok());
  EXPECT_EQ(engine->Drain(absl::Now() + absl::Milliseconds(20)).code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(engine->Submit(TestRequest(3, 3), [](const TokenEvent&) {}).status().code(),
            absl::StatusCode::kUnavailable);
  gate.Open();
  EXPECT_TRUE(engine->Drain(absl::InfiniteFuture()).ok());
  ExpectAnswer(answer, request);
  EXPECT_TRUE(engine->Drain(absl::Now()).ok());
}

TEST(EngineTest, EndsEverySequenceWithCancelledWhenItDies) {
  Gate gate;
  std::vector<Answer> answers(12);
  {
    auto engine = MakeEngine(TestEngineOptions(), gate.Hook());
    for (Answer& answer : answers) ASSERT_TRUE(engine->Submit(TestRequest(30, 60), answer.Callback()).ok());
    gate.WaitForStep(1);
    // Step by step, so that no answer is complete before the engine is told to end, be this thread ever so late.
    std::atomic<bool> ended{false};
    std::thread opener([&] {
      for (; !ended; gate.Step()) absl::SleepFor(absl::Milliseconds(50));
    });
    engine.reset();
    ended = true;
    opener.join();
  }
  for (Answer& answer : answers) EXPECT_EQ(answer.Wait().status.code(), absl::StatusCode::kCancelled);
}

TEST(EngineTest, ACallbackMaySubmitTheNextRequest) {
  EngineOptions options = TestEngineOptions();
  options.sequences_running_max = options.sequences_queued_max = 1;
  auto engine = MakeEngine(options);
  Answer next;
  const EngineRequest request = TestRequest(4, 4, 9);
  const auto submit_next = [&](const TokenEvent& event) {
    if (!event.ended()) return;
    EXPECT_TRUE(engine->Submit(request, next.Callback()).ok());
  };
  ASSERT_TRUE(engine->Submit(TestRequest(5, 2), submit_next).ok());
  ExpectAnswer(next, request);
  engine.reset();
}

TEST(EngineTest, SurvivesManyThreadsThatSubmitAndCancel) {
  EngineOptions options = TestEngineOptions();
  options.kv_bytes = 10 * kBlockBytes;
  auto engine = MakeEngine(options);
  std::atomic<int> ended{0}, accepted{0};
  std::vector<std::thread> threads;
  for (int thread = 0; thread < 4; ++thread) {
    threads.emplace_back([&, thread] {
      std::mt19937 random(thread);
      for (int i = 0; i < 300; ++i) {
        const auto id = engine->Submit(TestRequest(1 + random() % 90, 1 + random() % 20, i),
                                       [&](const TokenEvent& event) { ended += event.ended(); });
        accepted += id.ok();
        if (id.ok() && random() % 3 == 0) engine->Cancel(*id);
        if (!id.ok()) {
          EXPECT_EQ(id.status().code(), absl::StatusCode::kResourceExhausted);
          std::this_thread::yield();
        }
        engine->stats();
        engine->ExpertTokens();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  ASSERT_TRUE(engine->Drain(absl::Now() + absl::Seconds(60)).ok());
  EXPECT_EQ(ended, accepted);
  const EngineStats stats = engine->stats();
  EXPECT_EQ(stats.queued + stats.running + stats.kv_blocks_held(), 0);
}

}  // namespace
}  // namespace conclave
