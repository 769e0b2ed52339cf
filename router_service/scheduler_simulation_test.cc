// The scheduler under random load, against a simulated cache: every invariant after every step.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <set>
#include <utility>
#include <vector>

#include "router_service/scheduler.h"
#include "router_service/scheduler_testing.h"

namespace conclave {
namespace {

// What the cache would hold, written by each step and checked by every step that reads it.
class Simulation {
 public:
  // mixed: prompts have beginnings in common, and priorities and salts differ.
  Simulation(const SchedulerOptions& options, uint64_t seed, bool mixed)
      : options_(options),
        mixed_(mixed),
        scheduler_(options),
        random_(seed),
        cache_(options.kv_blocks * options.kv_block_tokens) {}

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
    EXPECT_EQ(scheduler_.blocks().held(), 0) << "blocks leaked";
    EXPECT_TRUE(scheduler_.blocks().CheckInvariants().ok());
    EXPECT_EQ(scheduler_.running() + scheduler_.waiting(), 0);
    if (!mixed_) {
      EXPECT_TRUE(std::is_sorted(admitted_.begin(), admitted_.end())) << "admission is not first come, first served";
    }
  }

  int64_t preemptions() const { return scheduler_.preemptions(); }
  int completed() const { return completed_; }
  int64_t cached_tokens() const { return cached_tokens_; }

 private:
  struct Live {
    std::vector<int32_t> tokens;
    int prompt = 0, max_tokens = 0;
    int logits_from = 0;
    int observed = 0;  // rows up to here gave their logits, where they had to
    int computed = 0;  // rows in the cache, unless it was preempted since
    bool started = false;
    uint64_t salt = 0;
    absl::Time deadline = absl::InfiniteFuture();
  };
  // A row of the cache depends on all tokens up to its own, and on nothing else; salts must not be mixed either.
  static uint64_t Mix(uint64_t state, int32_t token) {
    state = (state ^ static_cast<uint64_t>(token)) * 0x9E3779B97F4A7C15u;
    return state ^ (state >> 29);
  }

  void Submit() {
    const SequenceId id{++last_id_};
    // One after the other, so that every compiler tells the same stories.
    const int prompt = 1 + static_cast<int>(random_() % static_cast<uint64_t>(options_.context_max - 1));
    const int max_tokens = static_cast<int>(random_() % 31);
    ScheduledRequest request = TestScheduled(last_id_, prompt, max_tokens);
    // Beginnings are taken from three texts, so that many are equal for a while.
    const uint64_t text = random_() % 3;
    const size_t common = mixed_ ? random_() % (2 * request.prompt_ids.size()) : 0;
    for (size_t i = 0; i < request.prompt_ids.size(); ++i) {
      request.prompt_ids[i] = static_cast<int32_t>(i < common ? 100 + text * 7 + i : 100 + random_() % 1000);
    }
    if (mixed_) {
      request.priority = static_cast<int32_t>(random_() % 3) - 1;
      request.cache_salt = random_() % 4 == 0 ? "salt" : "";
      request.arrival = now_;
    }
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
    live.salt = request.cache_salt.empty() ? 1 : 2;
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
    // Now and then the rows of prefill are few, or none where there is something else to do.
    int prefill_rows = random_() % 3 == 0 ? 1 + static_cast<int>(random_() % 4) : options_.batch_tokens_max;
    if (scheduler_.decoding() > 0 && random_() % 5 == 0) prefill_rows = 0;
    preemptions_before_ = scheduler_.preemptions();
    const Batch& batch = scheduler_.Next(prefill_rows);
    if (batch.decode_rows > 0) {
      ASSERT_LE(batch.rows - batch.decode_rows, prefill_rows);
    }
    for (const Admission& admission : batch.admissions) {
      admitted_.push_back(admission.sequence);
      cached_tokens_ += admission.cached_tokens;
      ASSERT_LE(admission.cached_tokens, admission.prompt_tokens);
    }
    CheckLimits(batch);
    if (testing::Test::HasFatalFailure()) return;
    std::vector<int32_t> sampled;
    for (const BatchSlice& slice : batch.slices) {
      Compute(slice);
      if (testing::Test::HasFatalFailure()) return;
      sampled.push_back(random_() % 40 == 0 ? kTestEos : 200 + static_cast<int32_t>(random_() % 100));
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
      const bool takes_none = live_.at(token.sequence).max_tokens == 0;
      ASSERT_EQ(token.token, takes_none ? -1 : wanted.at(token.sequence));
      Accept(token);
    }
  }

  void CheckLimits(const Batch& batch) {
    int rows = 0, logit_rows = 0;
    std::set<SequenceId> sequences;
    std::map<int32_t, int> owners;
    for (const BatchSlice& slice : batch.slices) {
      ASSERT_TRUE(sequences.insert(slice.sequence).second) << "a sequence stands twice in a batch";
      ASSERT_GE(slice.token_ids.size(), 1u);
      ASSERT_LE(static_cast<int>(slice.token_ids.size()), options_.prefill_chunk_tokens_max);
      for (int32_t block : slice.blocks) ++owners[block];
      rows += static_cast<int>(slice.token_ids.size());
      logit_rows += slice.logit_rows;
    }
    for (const BatchSlice& slice : batch.slices) {
      for (int32_t position = slice.first_position; position < slice.end(); ++position) {
        const int32_t block = slice.blocks[position / options_.kv_block_tokens];
        ASSERT_EQ(owners[block], 1) << "a step writes into a block that another sequence reads";
        ASSERT_EQ(scheduler_.blocks().references(block), 1);
      }
    }
    for (int i = 0; i < batch.decode_rows; ++i) {
      ASSERT_EQ(batch.slices[i].token_ids.size(), 1u);
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
    int64_t running = scheduler_.running(), left_out = 0;
    for (auto& [id, live] : live_) {
      if (mixed_) break;
      if (running-- <= 0) {
        ASSERT_FALSE(scheduled.contains(id)) << "a younger sequence overtook one that waits";
        live.computed = 0;
      } else if (live.started && live.computed + 1 == static_cast<int>(live.tokens.size())) {
        if (scheduled.contains(id)) continue;
        live.computed = 0;
        ++left_out;
      }
    }
    // It may have been preempted and admitted again, without a row yet.
    ASSERT_LE(left_out, scheduler_.preemptions() - preemptions_before_) << "a decoding sequence was left out";
    bool prefill = false;
    for (const BatchSlice& slice : batch.slices) {
      const Live& live = live_.at(slice.sequence);
      if (live.tokens.size() == 1) continue;  // the row of such a prompt is its first and its last
      const bool decode = slice.first_position > 0 && slice.first_position + 1 == static_cast<int>(live.tokens.size());
      ASSERT_FALSE(prefill && decode && !mixed_) << "a decode stands behind a prefill";
      prefill |= !decode;
    }
  }

  // Plays the model: writes the slice's rows, then demands that the cache holds the sequence from its first token on.
  void Compute(const BatchSlice& slice) {
    Live& live = live_.at(slice.sequence);
    live.started = true;
    const int count = static_cast<int>(slice.token_ids.size());
    const int end = slice.first_position + count;
    ASSERT_LE(end, static_cast<int>(live.tokens.size()));
    ASSERT_GE(static_cast<int>(slice.blocks.size()) * options_.kv_block_tokens, end);
    uint64_t state = live.salt;
    for (int position = 0; position < end; ++position) {
      const int block = slice.blocks[position / options_.kv_block_tokens];
      uint64_t& row = cache_[block * options_.kv_block_tokens + position % options_.kv_block_tokens];
      state = Mix(state, live.tokens[position]);
      if (position >= slice.first_position) {
        ASSERT_EQ(slice.token_ids[position - slice.first_position], live.tokens[position]);
        row = state;
      }
      ASSERT_EQ(row, state) << "sequence " << Value(slice.sequence) << ": position " << position << " is not there";
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
    if (token.token >= 0) live.tokens.push_back(token.token);
    const int generated = static_cast<int>(live.tokens.size()) - live.prompt;
    const bool stop = token.token == kTestEos;
    const bool length = generated == live.max_tokens || static_cast<int>(live.tokens.size()) == options_.context_max;
    ASSERT_EQ(token.finish, stop ? FinishReason::kStop : length ? FinishReason::kLength : FinishReason::kNone);
    if (token.finish == FinishReason::kNone) return;
    ++completed_;
    live_.erase(token.sequence);
  }

  SchedulerOptions options_;
  const bool mixed_;
  Scheduler scheduler_;
  std::mt19937_64 random_;
  std::vector<uint64_t> cache_;  // [blocks * block_tokens]: what each row holds
  std::map<SequenceId, Live> live_;
  std::vector<SequenceId> admitted_;
  absl::Time now_ = absl::UnixEpoch();
  uint64_t last_id_ = 0;
  int submitted_ = 0, completed_ = 0;
  int64_t cached_tokens_ = 0, preemptions_before_ = 0;
  size_t progress_ = 0;
};

SchedulerOptions RandomOptions(uint64_t seed) {
  std::mt19937_64 random(seed);
  SchedulerOptions options = TestSchedulerOptions();
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
  return options;
}

TEST(SchedulerSimulation, KeepsItsInvariantsUnderRandomLoad) {
  int64_t preemptions = 0;
  for (uint64_t seed = 0; seed < 60; ++seed) {
    Simulation simulation(RandomOptions(seed), seed, /*mixed=*/false);
    simulation.Run(200);
    if (HasFatalFailure()) FAIL() << "seed " << seed;
    EXPECT_GT(simulation.completed(), 50) << "seed " << seed;
    preemptions += simulation.preemptions();
  }
  EXPECT_GT(preemptions, 100) << "the simulation must reach preemption to mean anything";
}

TEST(SchedulerSimulation, KeepsItsInvariantsWithSharedPrefixesPrioritiesAndSalts) {
  int64_t preemptions = 0, cached_tokens = 0;
  for (uint64_t seed = 0; seed < 120; ++seed) {
    SchedulerOptions options = RandomOptions(seed);
    options.prefix_cache = true;
    Simulation simulation(options, seed, /*mixed=*/true);
    simulation.Run(200);
    if (HasFatalFailure()) FAIL() << "seed " << seed;
    EXPECT_GT(simulation.completed(), 50) << "seed " << seed;
    preemptions += simulation.preemptions();
    cached_tokens += simulation.cached_tokens();
  }
  EXPECT_GT(preemptions, 100);
  EXPECT_GT(cached_tokens, 10000) << "the simulation must reach the prefix cache to mean anything";
}

}  // namespace
}  // namespace conclave
