#include "router_service/scheduler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <random>
#include <set>
#include <utility>
#include <vector>

namespace conclave {
namespace {

constexpr int32_t kEos = 7;

SchedulerOptions Options() {
  SchedulerOptions options;
  options.batch_tokens_max = 32;
  options.prefill_chunk_tokens_max = 8;
  options.logit_rows_max = 16;
  options.sequences_running_max = 4;
  options.sequences_queued_max = 8;
  options.context_max = 64;
  options.kv_blocks = 64;
  options.kv_block_tokens = 4;
  return options;
}

ScheduledRequest Request(uint64_t id, int prompt, int max_tokens) {
  ScheduledRequest request;
  request.sequence = SequenceId{id};
  request.prompt_ids.resize(prompt);
  std::iota(request.prompt_ids.begin(), request.prompt_ids.end(), 100);
  request.max_tokens = max_tokens;
  request.ending_ids = {kEos, 90};
  return request;
}

// Runs one step in which every sampling sequence gets `token`.
std::vector<ScheduledToken> Step(Scheduler& scheduler, int32_t token = 1) {
  const Batch& batch = scheduler.Next();
  const auto tokens = scheduler.Commit(batch, std::vector<int32_t>(batch.slices.size(), token));
  return {tokens.begin(), tokens.end()};
}

TEST(SchedulerTest, PrefillsInChunksAndSamplesFromTheLastRowOnly) {
  Scheduler scheduler(Options());
  ASSERT_TRUE(scheduler.Add(Request(1, 20, 2)).ok());
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
  Scheduler scheduler(Options());
  ASSERT_TRUE(scheduler.Add(Request(1, 3, 10)).ok());
  Step(scheduler);
  ASSERT_TRUE(scheduler.Add(Request(2, 40, 10)).ok());
  const Batch& batch = scheduler.Next();
  ASSERT_EQ(batch.slices.size(), 2u);
  EXPECT_EQ(batch.slices[0].sequence, SequenceId{1});
  EXPECT_EQ(batch.slices[0].token_ids.size(), 1u);
  EXPECT_EQ(batch.slices[1].sequence, SequenceId{2});
  EXPECT_EQ(batch.slices[1].token_ids.size(), 8u);
}

TEST(SchedulerTest, ServesDecodesBeforeThePrefillOfOlderSequences) {
  SchedulerOptions options = Options();
  options.batch_tokens_max = 8;
  options.prefill_chunk_tokens_max = 6;
  Scheduler scheduler(options);
  ASSERT_TRUE(scheduler.Add(Request(1, 40, 10)).ok());
  ASSERT_TRUE(scheduler.Add(Request(2, 2, 10)).ok());
  Step(scheduler);
  const Batch& batch = scheduler.Next();
  ASSERT_EQ(batch.slices.size(), 2u);
  EXPECT_EQ(batch.slices[0].sequence, SequenceId{2});
  EXPECT_EQ(batch.slices[1].sequence, SequenceId{1});
}

TEST(SchedulerTest, OnlyItsOwnEndingIdsEndASequence) {
  for (bool ignore : {false, true}) {
    Scheduler scheduler(Options());
    ScheduledRequest request = Request(1, 3, 4);
    if (ignore) request.ending_ids = {90};
    ASSERT_TRUE(scheduler.Add(std::move(request)).ok());
    const auto tokens = Step(scheduler, kEos);
    ASSERT_EQ(tokens.size(), 1u);
    EXPECT_EQ(tokens[0].token, kEos);
    EXPECT_EQ(tokens[0].finish, ignore ? FinishReason::kNone : FinishReason::kStop);
    EXPECT_EQ(scheduler.running(), ignore ? 1 : 0);
    EXPECT_EQ(scheduler.blocks().used(), ignore ? 1 : 0);
  }
}

TEST(SchedulerTest, EndsWithLengthAtMaxTokensAndAtTheContextsEnd) {
  for (const auto& [prompt, max_tokens, generated] : {std::tuple{3, 1, 1}, {3, 5, 5}, {60, 100, 4}, {63, 9, 1}}) {
    Scheduler scheduler(Options());
    ASSERT_TRUE(scheduler.Add(Request(1, prompt, max_tokens)).ok());
    std::vector<ScheduledToken> all;
    while (scheduler.running() + scheduler.waiting() > 0) {
      for (const ScheduledToken& token : Step(scheduler)) all.push_back(token);
    }
    ASSERT_EQ(static_cast<int>(all.size()), generated) << prompt;
    for (size_t i = 0; i + 1 < all.size(); ++i) EXPECT_EQ(all[i].finish, FinishReason::kNone);
    EXPECT_EQ(all.back().finish, FinishReason::kLength);
    EXPECT_EQ(scheduler.blocks().used(), 0);
  }
}

TEST(SchedulerTest, RefusesWhatDoesNotFitTheQueueOrTheWholeCache) {
  SchedulerOptions options = Options();
  options.sequences_running_max = 1;
  options.sequences_queued_max = 2;
  options.kv_blocks = 4;
  Scheduler scheduler(options);
  const absl::Status too_large = scheduler.Add(Request(1, 10, 7));
  EXPECT_EQ(too_large.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_NE(too_large.message().find("5 KV blocks (17 tokens)"), std::string::npos) << too_large;
  for (uint64_t id = 2; id < 5; ++id) EXPECT_TRUE(scheduler.Add(Request(id, 10, 6)).ok());
  const absl::Status full = scheduler.Add(Request(5, 1, 1));
  EXPECT_EQ(full.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_NE(full.message().find("queue is full"), std::string::npos) << full;
  EXPECT_TRUE(scheduler.Cancel(SequenceId{3}));
  EXPECT_TRUE(scheduler.Add(Request(5, 1, 1)).ok());
}

TEST(SchedulerTest, CancelFreesBlocksAtOnceWhereverTheSequenceIs) {
  SchedulerOptions options = Options();
  options.sequences_running_max = 2;
  Scheduler scheduler(options);
  for (uint64_t id = 1; id <= 3; ++id) ASSERT_TRUE(scheduler.Add(Request(id, 12, 5)).ok());
  const Batch& batch = scheduler.Next();
  ASSERT_EQ(batch.slices.size(), 2u);
  EXPECT_EQ(scheduler.blocks().used(), 4);
  EXPECT_TRUE(scheduler.Cancel(SequenceId{1})) << "between Next and Commit";
  EXPECT_TRUE(scheduler.Cancel(SequenceId{3})) << "still waiting";
  EXPECT_FALSE(scheduler.Cancel(SequenceId{3})) << "gone already";
  EXPECT_FALSE(scheduler.Cancel(SequenceId{77}));
  EXPECT_EQ(scheduler.blocks().used(), 2);
  scheduler.Commit(batch, {0, 0});
  EXPECT_TRUE(scheduler.Cancel(SequenceId{2}));
  EXPECT_EQ(scheduler.blocks().used(), 0);
  EXPECT_TRUE(scheduler.Next().slices.empty());
}

TEST(SchedulerTest, ExpiresRunningAndWaitingSequencesByTheirDeadline) {
  SchedulerOptions options = Options();
  options.sequences_running_max = 1;
  Scheduler scheduler(options);
  const absl::Time start = absl::UnixEpoch();
  for (uint64_t id = 1; id <= 3; ++id) {
    ScheduledRequest request = Request(id, 6, 50);
    if (id != 2) request.deadline = start + absl::Seconds(5);
    ASSERT_TRUE(scheduler.Add(std::move(request)).ok());
  }
  Step(scheduler);
  EXPECT_TRUE(scheduler.Expire(start + absl::Seconds(4)).empty());
  const auto expired = scheduler.Expire(start + absl::Seconds(5));
  EXPECT_EQ(std::vector<SequenceId>(expired.begin(), expired.end()),
            (std::vector<SequenceId>{SequenceId{1}, SequenceId{3}}));
  EXPECT_EQ(scheduler.blocks().used(), 0);
  EXPECT_EQ(scheduler.Next().slices[0].sequence, SequenceId{2});
}

TEST(SchedulerTest, PreemptsTheYoungestAndReplaysItsGeneratedTokens) {
  SchedulerOptions options = Options();
  options.kv_blocks = 5;
  options.context_max = 20;
  Scheduler scheduler(options);
  ASSERT_TRUE(scheduler.Add(Request(1, 7, 10)).ok());
  Step(scheduler, 11);
  ASSERT_TRUE(scheduler.Add(Request(2, 3, 10)).ok());
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
  int replayed_rows = 0;
  do {
    const Batch& batch = scheduler.Next();
    ASSERT_EQ(batch.slices.size(), 1u);
    const BatchSlice& slice = batch.slices[0];
    EXPECT_EQ(slice.sequence, SequenceId{2});
    EXPECT_EQ(slice.first_position, static_cast<int>(replayed.size()));
    replayed.insert(replayed.end(), slice.token_ids.begin(), slice.token_ids.end());
    replayed_rows += slice.replayed_rows;
    const bool sampled = slice.samples;
    const auto tokens = scheduler.Commit(batch, {55});
    ASSERT_EQ(tokens.size(), sampled ? 1u : 0u);
    if (sampled) break;
  } while (true);
  ASSERT_EQ(static_cast<int>(replayed.size()), 3 + before);
  EXPECT_EQ(replayed_rows, 3 + before - 1) << "the last row had not been computed before";
  EXPECT_EQ(replayed[2], 102);
  for (int i = 0; i < before; ++i) EXPECT_EQ(replayed[3 + i], 20 + i);
}

// What the cache would hold, written by each step and checked by every step that reads it.
class Simulation {
 public:
  Simulation(const SchedulerOptions& options, uint64_t seed)
      : options_(options), scheduler_(options), random_(seed), cache_(options.kv_blocks * options.kv_block_tokens) {}

  void Run(int requests) {
    int idle = 0;
    while (submitted_ < requests || !live_.empty()) {
      if (submitted_ < requests && random_() % 3 == 0) Submit();
      if (!live_.empty() && random_() % 40 == 0) CancelOne();
      if (random_() % 50 == 0) Expire();
      const size_t before = progress_;
      StepOnce();
      if (testing::Test::HasFatalFailure()) return;
      idle = live_.empty() || progress_ > before ? 0 : idle + 1;
      ASSERT_EQ(idle, 0) << "a step made no progress although sequences live";
    }
    EXPECT_EQ(scheduler_.blocks().used(), 0) << "blocks leaked";
    EXPECT_TRUE(scheduler_.blocks().CheckInvariants().ok());
    EXPECT_EQ(scheduler_.running() + scheduler_.waiting(), 0);
    EXPECT_TRUE(std::is_sorted(admitted_.begin(), admitted_.end())) << "admission is not first come, first served";
  }

  int64_t preemptions() const { return scheduler_.preemptions(); }
  int completed() const { return completed_; }

 private:
  struct Live {
    std::vector<int32_t> tokens;
    int prompt = 0, max_tokens = 0;
    int logits_from = 0;
    int observed = 0;  // rows up to here gave their logits, where they had to
    int computed = 0;  // rows in the cache, unless it was preempted since
    bool started = false;
    absl::Time deadline = absl::InfiniteFuture();
  };
  struct Row {
    SequenceId sequence{0};
    int32_t position = -1, token = -1;
  };

  void Submit() {
    const SequenceId id{++last_id_};
    ScheduledRequest request = Request(last_id_, 1 + random_() % (options_.context_max - 1), 1 + random_() % 30);
    for (int32_t& token : request.prompt_ids) token = 100 + random_() % 1000;
    // A third begins with its prompt's logits, a third is resumed and some of those hash what they replay.
    if (random_() % 3 == 0) request.logits_from = 0;
    if (random_() % 3 == 0 && request.max_tokens > 1) {
      const int room = std::min<int>(request.max_tokens - 1, options_.context_max - request.prompt_ids.size() - 1);
      request.generated_ids.resize(room > 0 ? random_() % room : 0);
      for (int32_t& token : request.generated_ids) token = 200 + static_cast<int32_t>(random_() % 100);
      if (random_() % 2 == 0) request.logits_from = static_cast<int32_t>(request.prompt_ids.size()) - 1;
    }
    if (random_() % 8 == 0) request.deadline = now_ + absl::Seconds(random_() % 100);
    Live live;
    live.tokens = request.prompt_ids;
    live.prompt = static_cast<int>(request.prompt_ids.size());
    live.tokens.insert(live.tokens.end(), request.generated_ids.begin(), request.generated_ids.end());
    live.max_tokens = request.max_tokens;
    live.logits_from = live.observed = request.logits_from;
    live.deadline = request.deadline;
    const absl::Status status = scheduler_.Add(std::move(request));
    EXPECT_EQ(status.ok(), static_cast<int>(live_.size()) < scheduler_.live_max()) << status;
    if (!status.ok()) return;
    ++submitted_;
    live_.emplace(id, std::move(live));
  }

  void CancelOne() {
    auto victim = live_.begin();
    std::advance(victim, random_() % live_.size());
    EXPECT_TRUE(scheduler_.Cancel(victim->first));
    live_.erase(victim);
  }

  void Expire() {
    now_ += absl::Seconds(random_() % 10);
    std::set<SequenceId> due;
    for (const auto& [id, live] : live_) {
      if (live.deadline <= now_) due.insert(id);
    }
    const auto expired = scheduler_.Expire(now_);
    EXPECT_EQ(std::set<SequenceId>(expired.begin(), expired.end()), due);
    for (SequenceId id : due) live_.erase(id);
  }

  void StepOnce() {
    const Batch& batch = scheduler_.Next();
    CheckLimits(batch);
    if (testing::Test::HasFatalFailure()) return;
    std::vector<int32_t> sampled;
    for (const BatchSlice& slice : batch.slices) {
      Compute(slice);
      if (testing::Test::HasFatalFailure()) return;
      sampled.push_back(random_() % 40 == 0 ? kEos : 200 + static_cast<int32_t>(random_() % 100));
      ++progress_;
    }
    size_t tokens = 0;
    for (const BatchSlice& slice : batch.slices) tokens += slice.samples;
    std::map<SequenceId, int32_t> wanted;
    for (size_t i = 0; i < batch.slices.size(); ++i) {
      if (batch.slices[i].samples) wanted[batch.slices[i].sequence] = sampled[i];
    }
    const auto given = scheduler_.Commit(batch, sampled);
    ASSERT_EQ(given.size(), tokens);
    for (const ScheduledToken& token : given) {
      ASSERT_EQ(token.token, wanted.at(token.sequence));
      Accept(token);
    }
  }

  void CheckLimits(const Batch& batch) {
    int rows = 0, logit_rows = 0;
    std::set<SequenceId> sequences;
    std::set<int32_t> blocks;
    for (const BatchSlice& slice : batch.slices) {
      ASSERT_TRUE(sequences.insert(slice.sequence).second) << "a sequence stands twice in a batch";
      ASSERT_GE(slice.token_ids.size(), 1u);
      ASSERT_LE(static_cast<int>(slice.token_ids.size()), options_.prefill_chunk_tokens_max);
      for (int32_t block : slice.blocks) ASSERT_TRUE(blocks.insert(block).second) << "a block has two owners";
      rows += static_cast<int>(slice.token_ids.size());
      logit_rows += slice.logit_rows;
    }
    ASSERT_EQ(rows, batch.rows);
    ASSERT_EQ(logit_rows, batch.logit_rows);
    ASSERT_LE(rows, options_.batch_tokens_max);
    ASSERT_LE(logit_rows, options_.logit_rows_max);
    ASSERT_LE(scheduler_.running(), options_.sequences_running_max);
    ASSERT_EQ(scheduler_.running() + scheduler_.waiting(), static_cast<int64_t>(live_.size()));
    ASSERT_TRUE(scheduler_.blocks().CheckInvariants().ok());
    CheckOrder(batch, sequences);
  }

  // Ids ascend with arrival. Those that run are the oldest; decodes stand first, and each of them every time.
  void CheckOrder(const Batch& batch, const std::set<SequenceId>& scheduled) {
    int64_t running = scheduler_.running();
    for (const auto& [id, live] : live_) {
      if (running-- <= 0) {
        ASSERT_FALSE(scheduled.contains(id)) << "a younger sequence overtook one that waits";
      } else if (live.computed + 1 == static_cast<int>(live.tokens.size())) {
        ASSERT_TRUE(scheduled.contains(id)) << "a decoding sequence was left out";
      }
    }
    bool prefill = false;
    for (const BatchSlice& slice : batch.slices) {
      const Live& live = live_.at(slice.sequence);
      const bool decode = slice.first_position > 0 && slice.first_position + 1 == static_cast<int>(live.tokens.size());
      ASSERT_FALSE(prefill && decode) << "a decode stands behind a prefill";
      prefill |= !decode;
    }
  }

  // Plays the model: writes the slice's rows, then demands that the cache holds the sequence from its first token on.
  void Compute(const BatchSlice& slice) {
    Live& live = live_.at(slice.sequence);
    if (!std::exchange(live.started, true)) admitted_.push_back(slice.sequence);
    const int count = static_cast<int>(slice.token_ids.size());
    const int end = slice.first_position + count;
    ASSERT_LE(end, static_cast<int>(live.tokens.size()));
    ASSERT_GE(static_cast<int>(slice.blocks.size()) * options_.kv_block_tokens, end);
    const auto row = [&](int position) -> Row& {
      const int block = slice.blocks[position / options_.kv_block_tokens];
      return cache_[block * options_.kv_block_tokens + position % options_.kv_block_tokens];
    };
    for (int i = 0; i < count; ++i)
      row(slice.first_position + i) = {slice.sequence, slice.first_position + i, slice.token_ids[i]};
    for (int position = 0; position < end; ++position) {
      const Row& cached = row(position);
      ASSERT_TRUE(cached.sequence == slice.sequence && cached.position == position &&
                  cached.token == live.tokens[position])
          << "sequence " << Value(slice.sequence) << " position " << position << " is not in the cache";
    }
    live.computed = end;
    ASSERT_EQ(slice.samples, end == static_cast<int>(live.tokens.size()));
    ASSERT_EQ(slice.prompt_rows, std::clamp(live.prompt - slice.first_position, 0, count));
    ASSERT_EQ(static_cast<size_t>(slice.tokens.size()), live.tokens.size());
    // Every row from logits_from on gives its logits exactly once, in order.
    if (end > live.observed) {
      ASSERT_EQ(end - slice.logit_rows, std::max<int>(live.logits_from, live.observed));
      live.observed = end;
    } else {
      ASSERT_EQ(slice.logit_rows, slice.samples ? 1 : 0);
    }
  }

  void Accept(const ScheduledToken& token) {
    Live& live = live_.at(token.sequence);
    live.tokens.push_back(token.token);
    const int generated = static_cast<int>(live.tokens.size()) - live.prompt;
    const bool stop = token.token == kEos;
    const bool length = generated == live.max_tokens || static_cast<int>(live.tokens.size()) == options_.context_max;
    ASSERT_EQ(token.finish, stop ? FinishReason::kStop : length ? FinishReason::kLength : FinishReason::kNone);
    if (token.finish == FinishReason::kNone) return;
    ++completed_;
    live_.erase(token.sequence);
  }

  SchedulerOptions options_;
  Scheduler scheduler_;
  std::mt19937_64 random_;
  std::vector<Row> cache_;
  std::map<SequenceId, Live> live_;
  std::vector<SequenceId> admitted_;
  absl::Time now_ = absl::UnixEpoch();
  uint64_t last_id_ = 0;
  int submitted_ = 0, completed_ = 0;
  size_t progress_ = 0;
};

TEST(SchedulerSimulation, KeepsItsInvariantsUnderRandomLoad) {
  int64_t preemptions = 0;
  for (uint64_t seed = 0; seed < 60; ++seed) {
    std::mt19937_64 random(seed);
    SchedulerOptions options = Options();
    options.context_max = 16 + random() % 64;
    options.kv_block_tokens = 1 + random() % 8;
    options.batch_tokens_max = 1 + random() % 40;
    options.prefill_chunk_tokens_max = 1 + random() % 20;
    options.logit_rows_max = 1 + random() % 20;
    options.sequences_running_max = 1 + random() % 12;
    options.sequences_queued_max = 1 + random() % 20;
    // From one full context, where preemption is frequent, to several.
    const int64_t least = BlocksFor(options.context_max, options.kv_block_tokens);
    options.kv_blocks = static_cast<int32_t>(least + random() % (2 * least));
    Simulation simulation(options, seed);
    simulation.Run(200);
    if (HasFatalFailure()) FAIL() << "seed " << seed;
    EXPECT_GT(simulation.completed(), 50) << "seed " << seed;
    preemptions += simulation.preemptions();
  }
  EXPECT_GT(preemptions, 100) << "the simulation must reach preemption to mean anything";
}

}  // namespace
}  // namespace conclave
