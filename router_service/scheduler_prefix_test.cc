// The scheduler with its prefix cache, and with priorities.
#include <gtest/gtest.h>

#include <map>
#include <utility>
#include <vector>

#include "router_service/scheduler.h"
#include "router_service/scheduler_testing.h"

namespace conclave {
namespace {

SchedulerOptions Options() {
  SchedulerOptions options = TestSchedulerOptions();
  options.prefix_cache = true;
  return options;
}

// Steps until everybody has ended; returns the rows that each sequence computed.
std::map<SequenceId, int> RowsToTheEnd(Scheduler& scheduler) {
  std::map<SequenceId, int> rows;
  while (scheduler.running() + scheduler.waiting() > 0) {
    const Batch& batch = scheduler.Next();
    for (const BatchSlice& slice : batch.slices) rows[slice.sequence] += static_cast<int>(slice.token_ids.size());
    EXPECT_FALSE(batch.slices.empty()) << "no progress";
    if (batch.slices.empty()) break;
    scheduler.Commit(batch, std::vector<int32_t>(batch.slices.size(), 1));
  }
  return rows;
}

TEST(SchedulerPrefixTest, ASecondSequenceComputesOnlyWhatTheFirstHasNot) {
  Scheduler scheduler(Options());
  ASSERT_TRUE(scheduler.Add(TestScheduled(1, 18, 2)).ok());
  EXPECT_EQ(RowsToTheEnd(scheduler)[SequenceId{1}], 19);
  EXPECT_EQ(scheduler.blocks().held(), 0);
  EXPECT_EQ(scheduler.blocks().cached(), 4) << "of 19 rows, the full blocks";
  ASSERT_TRUE(scheduler.Add(TestScheduled(2, 18, 2)).ok());
  const Batch& batch = scheduler.Next();
  ASSERT_EQ(batch.admissions.size(), 1u);
  EXPECT_EQ(batch.admissions[0].cached_tokens, 16);
  ASSERT_EQ(batch.slices.size(), 1u);
  EXPECT_EQ(batch.slices[0].first_position, 16);
  EXPECT_EQ(batch.slices[0].token_ids.size(), 2u);
  EXPECT_EQ(batch.slices[0].blocks.size(), 5u);
}

TEST(SchedulerPrefixTest, TheLastTokenOfAPromptIsAlwaysComputed) {
  Scheduler scheduler(Options());
  for (uint64_t id = 1; id <= 2; ++id) {
    ASSERT_TRUE(scheduler.Add(TestScheduled(id, 16, 1)).ok());
    EXPECT_EQ(RowsToTheEnd(scheduler)[SequenceId{id}], id == 1 ? 16 : 4);
  }
}

TEST(SchedulerPrefixTest, WhatWasGeneratedIsSharedToo) {
  Scheduler scheduler(Options());
  ASSERT_TRUE(scheduler.Add(TestScheduled(1, 6, 8)).ok());
  RowsToTheEnd(scheduler);
  // The next turn of a conversation: prompt, answer, and something new.
  ScheduledRequest next = TestScheduled(2, 6, 1);
  next.prompt_ids.insert(next.prompt_ids.end(), 8, 1);
  next.prompt_ids.push_back(55);
  ASSERT_TRUE(scheduler.Add(std::move(next)).ok());
  EXPECT_EQ(scheduler.Next().admissions[0].cached_tokens, 12) << "13 rows were computed";
}

TEST(SchedulerPrefixTest, SequencesThatArriveTogetherComputeTheirPromptOnce) {
  Scheduler scheduler(Options());
  for (uint64_t id = 1; id <= 4; ++id) ASSERT_TRUE(scheduler.Add(TestScheduled(id, 22, 3)).ok());
  // One that has nothing in common is not held up by those that wait.
  ScheduledRequest other = TestScheduled(5, 3, 1);
  other.prompt_ids = {1, 2, 3};
  ASSERT_TRUE(scheduler.Add(std::move(other)).ok());
  const Batch& batch = scheduler.Next();
  ASSERT_EQ(batch.slices.size(), 2u);
  EXPECT_EQ(batch.slices[0].sequence, SequenceId{1});
  EXPECT_EQ(batch.slices[1].sequence, SequenceId{5});
  scheduler.Commit(batch, {1, 1});
  auto rows = RowsToTheEnd(scheduler);
  EXPECT_EQ(rows[SequenceId{1}], 22 + 2 - 8) << "its first chunk stood in the batch above";
  for (uint64_t id = 2; id <= 4; ++id) EXPECT_EQ(rows[SequenceId{id}], 2 + 2) << id;
}

TEST(SchedulerPrefixTest, WhoWaitsForAPrefixGoesOnAloneWhenItsProviderIsCancelled) {
  Scheduler scheduler(Options());
  for (uint64_t id = 1; id <= 2; ++id) ASSERT_TRUE(scheduler.Add(TestScheduled(id, 22, 1)).ok());
  Step(scheduler);
  EXPECT_EQ(scheduler.running(), 1);
  scheduler.Cancel(SequenceId{1});
  EXPECT_EQ(RowsToTheEnd(scheduler)[SequenceId{2}], 22 - 8) << "the two blocks that were done are there";
}

TEST(SchedulerPrefixTest, AnotherSaltSharesNothing) {
  Scheduler scheduler(Options());
  for (uint64_t id = 1; id <= 3; ++id) {
    ScheduledRequest request = TestScheduled(id, 22, 1);
    request.cache_salt = id == 2 ? "tenant" : "";
    ASSERT_TRUE(scheduler.Add(std::move(request)).ok());
  }
  auto rows = RowsToTheEnd(scheduler);
  EXPECT_EQ(rows[SequenceId{1}], 22);
  EXPECT_EQ(rows[SequenceId{2}], 22);
  EXPECT_EQ(rows[SequenceId{3}], 2);
}

TEST(SchedulerPrefixTest, RowsWhoseLogitsAreWantedAreComputed) {
  Scheduler scheduler(Options());
  ASSERT_TRUE(scheduler.Add(TestScheduled(1, 22, 4)).ok());
  RowsToTheEnd(scheduler);
  ScheduledRequest prompt_logits = TestScheduled(2, 22, 1);
  prompt_logits.logits_from = 0;
  ScheduledRequest resumed = TestScheduled(3, 22, 4);
  resumed.generated_ids = {1, 1, 1};
  resumed.logits_from = 21;
  ASSERT_TRUE(scheduler.Add(std::move(prompt_logits)).ok());
  ASSERT_TRUE(scheduler.Add(std::move(resumed)).ok());
  auto rows = RowsToTheEnd(scheduler);
  EXPECT_EQ(rows[SequenceId{2}], 22);
  EXPECT_EQ(rows[SequenceId{3}], 5) << "from position 20, the last border of a block before 21";
}

TEST(SchedulerPrefixTest, EqualBlocksThatTwoSequencesComputeBecomeOne) {
  SchedulerOptions options = Options();
  options.kv_block_tokens = 8;
  Scheduler scheduler(options);
  // Too short to share a block; then both generate the same.
  for (uint64_t id = 1; id <= 2; ++id) ASSERT_TRUE(scheduler.Add(TestScheduled(id, 3, 20)).ok());
  for (int step = 0; step < 5; ++step) Step(scheduler);
  EXPECT_EQ(scheduler.blocks().held(), 2) << "7 of 8 rows";
  Step(scheduler);
  EXPECT_EQ(scheduler.blocks().held(), 1);
  Step(scheduler);
  EXPECT_EQ(scheduler.blocks().held(), 3) << "each has begun its second block";
  RowsToTheEnd(scheduler);
  EXPECT_EQ(scheduler.blocks().held(), 0);
}

TEST(SchedulerPrefixTest, CachedBlocksAreGivenToWhoNeedsThem) {
  SchedulerOptions options = Options();
  options.kv_blocks = 16;
  Scheduler scheduler(options);
  for (uint64_t id = 1; id <= 20; ++id) {
    ScheduledRequest request = TestScheduled(id, 40, 2);
    request.prompt_ids[0] = static_cast<int32_t>(id);
    ASSERT_TRUE(scheduler.Add(std::move(request)).ok()) << id;
    RowsToTheEnd(scheduler);
  }
  EXPECT_EQ(scheduler.preemptions(), 0);
  EXPECT_EQ(scheduler.blocks().held(), 0);
}

TEST(SchedulerPrefixTest, APreemptedSequenceFindsItsOwnBlocksAgain) {
  SchedulerOptions options = Options();
  options.sequences_running_max = 1;
  Scheduler scheduler(options);
  ScheduledRequest background = TestScheduled(1, 20, 4);
  background.priority = 1;
  ASSERT_TRUE(scheduler.Add(std::move(background)).ok());
  for (int step = 0; step < 4; ++step) Step(scheduler);
  ScheduledRequest urgent = TestScheduled(2, 4, 1);
  urgent.prompt_ids = {1, 2, 3, 4};
  ASSERT_TRUE(scheduler.Add(std::move(urgent)).ok());
  EXPECT_EQ(scheduler.Next().slices[0].sequence, SequenceId{2});
  EXPECT_EQ(scheduler.preemptions(), 1);
  scheduler.Commit(scheduler.Next(), {1});
  const Batch& back = scheduler.Next();
  ASSERT_EQ(back.slices.size(), 1u);
  EXPECT_EQ(back.slices[0].sequence, SequenceId{1});
  EXPECT_EQ(back.slices[0].first_position, 20);
  EXPECT_TRUE(back.admissions.empty()) << "it has been admitted before";
}

TEST(SchedulerPriorityTest, LowerNumbersAreAdmittedFirstAndEqualOnesInOrderOfArrival) {
  SchedulerOptions options = TestSchedulerOptions();
  options.sequences_running_max = 1;
  Scheduler scheduler(options);
  uint64_t id = 0;
  for (int32_t priority : {2, 0, 1, 0, -3}) {
    ScheduledRequest request = TestScheduled(++id, 3, 1);
    request.priority = priority;
    ASSERT_TRUE(scheduler.Add(std::move(request)).ok());
  }
  std::vector<uint64_t> order;
  while (scheduler.waiting() > 0) order.push_back(Value(Step(scheduler)[0].sequence));
  EXPECT_EQ(order, (std::vector<uint64_t>{5, 2, 4, 3, 1}));
}

TEST(SchedulerPriorityTest, WhoHasWaitedLongEnoughIsNotOvertakenByABetterPriority) {
  SchedulerOptions options = TestSchedulerOptions();
  options.sequences_running_max = 1;
  Scheduler scheduler(options);
  const auto add = [&](uint64_t id, int32_t priority, int arrival_seconds) {
    ScheduledRequest request = TestScheduled(id, 3, 1);
    request.priority = priority;
    request.arrival = absl::UnixEpoch() + absl::Seconds(arrival_seconds);
    ASSERT_TRUE(scheduler.Add(std::move(request)).ok());
  };
  add(1, 2, 0);
  add(2, 0, 19);
  add(3, 0, 21);
  std::vector<uint64_t> order;
  while (scheduler.waiting() > 0) order.push_back(Value(Step(scheduler)[0].sequence));
  EXPECT_EQ(order, (std::vector<uint64_t>{2, 1, 3}));
}

TEST(SchedulerPriorityTest, AnUrgentSequenceTakesTheBlocksOfOthersOnlyWhereThatIsEnough) {
  SchedulerOptions options = TestSchedulerOptions();
  options.kv_blocks = 8;
  options.context_max = 32;
  Scheduler scheduler(options);
  for (uint64_t id = 1; id <= 2; ++id) {
    ScheduledRequest request = TestScheduled(id, 10, 4);
    request.priority = id == 1 ? 0 : 1;
    ASSERT_TRUE(scheduler.Add(std::move(request)).ok());
  }
  Step(scheduler);
  Step(scheduler);
  ASSERT_EQ(scheduler.running(), 2);
  // Beside 1, of the same priority, there will never be room for it.
  ASSERT_TRUE(scheduler.Add(TestScheduled(3, 22, 1)).ok());
  Step(scheduler);
  EXPECT_EQ(scheduler.preemptions(), 0);
  scheduler.Cancel(SequenceId{3});
  ASSERT_TRUE(scheduler.Add(TestScheduled(4, 10, 1)).ok());
  Step(scheduler);
  EXPECT_EQ(scheduler.preemptions(), 1);
  EXPECT_EQ(scheduler.running(), 2);
}

TEST(SchedulerPriorityTest, AShortPromptDoesNotWaitForTheEndOfALongOne) {
  SchedulerOptions options = TestSchedulerOptions();
  options.batch_tokens_max = options.prefill_chunk_tokens_max = 8;
  Scheduler scheduler(options);
  ASSERT_TRUE(scheduler.Add(TestScheduled(1, 60, 1)).ok());
  Step(scheduler);
  ASSERT_TRUE(scheduler.Add(TestScheduled(2, 4, 1)).ok());
  const Batch& batch = scheduler.Next();
  ASSERT_EQ(batch.slices.size(), 2u);
  EXPECT_EQ(batch.slices[0].token_ids.size(), 4u) << "the first in rank keeps half of the rows";
  EXPECT_EQ(batch.slices[1].sequence, SequenceId{2});
  EXPECT_TRUE(batch.slices[1].samples);
}

TEST(SchedulerPriorityTest, WithNoRowsForPrefillOnlyDecodesRun) {
  Scheduler scheduler(TestSchedulerOptions());
  ASSERT_TRUE(scheduler.Add(TestScheduled(1, 3, 9)).ok());
  Step(scheduler);
  EXPECT_EQ(scheduler.decoding(), 1);
  ASSERT_TRUE(scheduler.Add(TestScheduled(2, 20, 9)).ok());
  EXPECT_EQ(scheduler.Next(0).rows, 1);
  scheduler.Commit(scheduler.Next(0), {1});
  const Batch& batch = scheduler.Next(3);
  EXPECT_EQ(batch.decode_rows, 1);
  EXPECT_EQ(batch.rows, 4);
}

}  // namespace
}  // namespace conclave
