#include "router_service/scheduler.h"

#include <gtest/gtest.h>

#include <map>
#include <tuple>
#include <utility>
#include <vector>

#include "router_service/scheduler_testing.h"

namespace conclave {
namespace {

TEST(SchedulerTest, PrefillsInChunksAndSamplesFromTheLastRowOnly) {
  Scheduler scheduler(TestSchedulerOptions());
  ASSERT_TRUE(scheduler.Add(TestScheduled(1, 20, 2)).ok());
  std::vector<std::pair<int, int>> chunks;
  for (int step = 0; step < 3; ++step) {
    const Batch& batch = scheduler.Next();
    ASSERT_EQ(batch.slices.size(), 1u);
    const BatchSlice& slice = batch.slices[0];
    chunks.push_back({slice.first_position, static_cast<int>(slice.token_ids.size())});
    EXPECT_EQ(slice.samples, step == 2);
    EXPECT_EQ(slice.logit_rows, step == 2 ? 1 : 0);
    EXPECT_EQ(slice.blocks.size(), static_cast<size_t>(BlocksFor(chunks.back().first + chunks.back().second, 4)));
    scheduler.Commit(batch, {5});
  }
  EXPECT_EQ(chunks, (std::vector<std::pair<int, int>>{{0, 8}, {8, 8}, {16, 4}}));
  const Batch& decode = scheduler.Next();
  ASSERT_EQ(decode.rows, 1);
  EXPECT_EQ(decode.slices[0].token_ids[0], 5);
  EXPECT_EQ(decode.slices[0].first_position, 20);
  EXPECT_EQ(decode.slices[0].prompt_rows, 0);
}

TEST(SchedulerTest, ServesDecodesBeforeThePrefillOfOthers) {
  Scheduler scheduler(TestSchedulerOptions());
  ASSERT_TRUE(scheduler.Add(TestScheduled(1, 3, 10)).ok());
  Step(scheduler);
  ASSERT_TRUE(scheduler.Add(TestScheduled(2, 40, 10)).ok());
  const Batch& batch = scheduler.Next();
  ASSERT_EQ(batch.slices.size(), 2u);
  EXPECT_EQ(batch.slices[0].sequence, SequenceId{1});
  EXPECT_EQ(batch.slices[0].token_ids.size(), 1u);
  EXPECT_EQ(batch.slices[1].sequence, SequenceId{2});
  EXPECT_EQ(batch.slices[1].token_ids.size(), 8u);
}

TEST(SchedulerTest, ServesDecodesBeforeThePrefillOfOlderSequences) {
  SchedulerOptions options = TestSchedulerOptions();
  options.batch_tokens_max = 8;
  options.prefill_chunk_tokens_max = 6;
  Scheduler scheduler(options);
  ASSERT_TRUE(scheduler.Add(TestScheduled(1, 40, 10)).ok());
  ASSERT_TRUE(scheduler.Add(TestScheduled(2, 2, 10)).ok());
  Step(scheduler);
  const Batch& batch = scheduler.Next();
  ASSERT_EQ(batch.slices.size(), 2u);
  EXPECT_EQ(batch.slices[0].sequence, SequenceId{2});
  EXPECT_EQ(batch.slices[1].sequence, SequenceId{1});
}

TEST(SchedulerTest, OnlyItsOwnEndingIdsEndASequence) {
  for (bool ignore : {false, true}) {
    Scheduler scheduler(TestSchedulerOptions());
    ScheduledRequest request = TestScheduled(1, 3, 4);
    if (ignore) request.ending_ids = {90};
    ASSERT_TRUE(scheduler.Add(std::move(request)).ok());
    const auto tokens = Step(scheduler, kTestEos);
    ASSERT_EQ(tokens.size(), 1u);
    EXPECT_EQ(tokens[0].token, kTestEos);
    EXPECT_EQ(tokens[0].finish, ignore ? FinishReason::kNone : FinishReason::kStop);
    EXPECT_EQ(scheduler.running(), ignore ? 1 : 0);
    EXPECT_EQ(scheduler.blocks().held(), ignore ? 1 : 0);
  }
}

TEST(SchedulerTest, EndsWithLengthAtMaxTokensAndAtTheContextsEnd) {
  for (const auto& [prompt, max_tokens, generated] : {std::tuple{3, 1, 1}, {3, 5, 5}, {60, 100, 4}, {63, 9, 1}}) {
    Scheduler scheduler(TestSchedulerOptions());
    ASSERT_TRUE(scheduler.Add(TestScheduled(1, prompt, max_tokens)).ok());
    std::vector<ScheduledToken> all;
    while (scheduler.running() + scheduler.waiting() > 0) {
      for (const ScheduledToken& token : Step(scheduler)) all.push_back(token);
    }
    ASSERT_EQ(static_cast<int>(all.size()), generated) << prompt;
    for (size_t i = 0; i + 1 < all.size(); ++i) EXPECT_EQ(all[i].finish, FinishReason::kNone);
    EXPECT_EQ(all.back().finish, FinishReason::kLength);
    EXPECT_EQ(scheduler.blocks().held(), 0);
  }
}

TEST(SchedulerTest, WithoutTokensToGenerateASequenceEndsOnceItsPromptIsComputed) {
  for (const int prompt : {1, 8, 20, 63}) {
    for (const int32_t drawn : {1, kTestEos}) {
      SchedulerOptions options = TestSchedulerOptions();
      options.prefix_cache = true;
      Scheduler scheduler(options);
      ASSERT_TRUE(scheduler.Add(TestScheduled(1, prompt, 0)).ok());
      std::vector<ScheduledToken> all;
      int rows = 0;
      while (scheduler.running() + scheduler.waiting() > 0) {
        const Batch& batch = scheduler.Next();
        rows += batch.rows;
        const auto tokens = scheduler.Commit(batch, std::vector<int32_t>(batch.slices.size(), drawn));
        all.insert(all.end(), tokens.begin(), tokens.end());
      }
      EXPECT_EQ(rows, prompt);
      ASSERT_EQ(all.size(), 1u);
      EXPECT_EQ(all[0].token, -1);
      EXPECT_EQ(all[0].finish, FinishReason::kLength) << "whatever would have come next";
      EXPECT_EQ(scheduler.blocks().held(), 0);
      EXPECT_EQ(scheduler.blocks().cached(), prompt / options.kv_block_tokens) << "others may go on behind it";
    }
  }
}

TEST(SchedulerTest, RefusesWhatDoesNotFitTheQueueOrTheWholeCache) {
  SchedulerOptions options = TestSchedulerOptions();
  options.sequences_running_max = 1;
  options.sequences_queued_max = 2;
  options.kv_blocks = 4;
  Scheduler scheduler(options);
  const absl::Status too_large = scheduler.Add(TestScheduled(1, 10, 7));
  EXPECT_EQ(too_large.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_NE(too_large.message().find("5 KV blocks (17 tokens)"), std::string::npos) << too_large;
  for (uint64_t id = 2; id < 5; ++id) EXPECT_TRUE(scheduler.Add(TestScheduled(id, 10, 6)).ok());
  const absl::Status full = scheduler.Add(TestScheduled(5, 1, 1));
  EXPECT_EQ(full.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_NE(full.message().find("queue is full"), std::string::npos) << full;
  EXPECT_TRUE(scheduler.Cancel(SequenceId{3}));
  EXPECT_TRUE(scheduler.Add(TestScheduled(5, 1, 1)).ok());
}

TEST(SchedulerTest, CancelFreesBlocksAtOnceWhereverTheSequenceIs) {
  SchedulerOptions options = TestSchedulerOptions();
  options.sequences_running_max = 2;
  Scheduler scheduler(options);
  for (uint64_t id = 1; id <= 3; ++id) ASSERT_TRUE(scheduler.Add(TestScheduled(id, 12, 5)).ok());
  const Batch& batch = scheduler.Next();
  ASSERT_EQ(batch.slices.size(), 2u);
  EXPECT_EQ(scheduler.blocks().held(), 4);
  EXPECT_TRUE(scheduler.Cancel(SequenceId{1})) << "between Next and Commit";
  EXPECT_TRUE(scheduler.Cancel(SequenceId{3})) << "still waiting";
  EXPECT_FALSE(scheduler.Cancel(SequenceId{3})) << "gone already";
  EXPECT_FALSE(scheduler.Cancel(SequenceId{77}));
  EXPECT_EQ(scheduler.blocks().held(), 2);
  scheduler.Commit(batch, {0, 0});
  EXPECT_TRUE(scheduler.Cancel(SequenceId{2}));
  EXPECT_EQ(scheduler.blocks().held(), 0);
  EXPECT_TRUE(scheduler.Next().slices.empty());
}

TEST(SchedulerTest, ExpiresRunningAndWaitingSequencesByTheirDeadline) {
  SchedulerOptions options = TestSchedulerOptions();
  options.sequences_running_max = 1;
  Scheduler scheduler(options);
  const absl::Time start = absl::UnixEpoch();
  for (uint64_t id = 1; id <= 3; ++id) {
    ScheduledRequest request = TestScheduled(id, 6, 50);
    if (id != 2) request.deadline = start + absl::Seconds(5);
    ASSERT_TRUE(scheduler.Add(std::move(request)).ok());
  }
  Step(scheduler);
  EXPECT_TRUE(scheduler.Expire(start + absl::Seconds(4)).empty());
  const auto expired = scheduler.Expire(start + absl::Seconds(5));
  EXPECT_EQ(std::vector<SequenceId>(expired.begin(), expired.end()),
            (std::vector<SequenceId>{SequenceId{1}, SequenceId{3}}));
  EXPECT_EQ(scheduler.blocks().held(), 0);
  EXPECT_EQ(scheduler.Next().slices[0].sequence, SequenceId{2});
}

TEST(SchedulerTest, PreemptsTheYoungestAndReplaysItsGeneratedTokens) {
  SchedulerOptions options = TestSchedulerOptions();
  options.kv_blocks = 5;
  options.context_max = 20;
  Scheduler scheduler(options);
  ASSERT_TRUE(scheduler.Add(TestScheduled(1, 7, 10)).ok());
  Step(scheduler, 11);
  ASSERT_TRUE(scheduler.Add(TestScheduled(2, 3, 10)).ok());
  // 1 decodes from 8 tokens on, 2 from 4 on: both need a block at the same steps, until 1 takes the last of five.
  std::map<uint64_t, int> generated{{1, 1}, {2, 0}};
  while (scheduler.preemptions() == 0) {
    for (const ScheduledToken& token : Step(scheduler, 20 + generated[2])) ++generated[Value(token.sequence)];
    ASSERT_LT(generated[1], 10);
  }
  EXPECT_EQ(scheduler.running(), 1);
  EXPECT_EQ(scheduler.waiting(), 1);
  const int before = generated[2];
  ASSERT_GT(before, 0);
  while (scheduler.running() > 0 && scheduler.waiting() == 1) Step(scheduler);
  // Now 1 has ended and 2 comes back: its prompt and its answer so far are rows like any others.
  std::vector<int32_t> replayed;
  do {
    const Batch& batch = scheduler.Next();
    ASSERT_EQ(batch.slices.size(), 1u);
    const BatchSlice& slice = batch.slices[0];
    EXPECT_EQ(slice.sequence, SequenceId{2});
    EXPECT_EQ(slice.first_position, static_cast<int>(replayed.size()));
    replayed.insert(replayed.end(), slice.token_ids.begin(), slice.token_ids.end());
    const bool sampled = slice.samples;
    const auto tokens = scheduler.Commit(batch, {55});
    ASSERT_EQ(tokens.size(), sampled ? 1u : 0u);
    if (sampled) break;
  } while (true);
  ASSERT_EQ(static_cast<int>(replayed.size()), 3 + before);
  EXPECT_EQ(replayed[2], 102);
  for (int i = 0; i < before; ++i) EXPECT_EQ(replayed[3 + i], 20 + i);
}

}  // namespace
}  // namespace conclave
