// For tests: an engine over the fake transformer, and the answers that it must give.
#ifndef CONCLAVE_ROUTER_SERVICE_ENGINE_TESTING_H_
#define CONCLAVE_ROUTER_SERVICE_ENGINE_TESTING_H_

#include <gtest/gtest.h>

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "moe/base/clock.h"
#include "router_service/engine.h"
#include "router_service/fake_transformer.h"
#include "router_service/logprobs.h"

namespace conclave {

// Bytes of one KV block of the fake model: 2 layers x 16 tokens x 4 values.
inline constexpr int64_t kBlockBytes = 2 * 16 * 4 * 4;
// One full context of 96 tokens.
inline constexpr int64_t kLeastKvBytes = 6 * kBlockBytes;

// Small limits that leave room for several sequences.
EngineOptions TestEngineOptions();
// Fails the test where there is none.
std::unique_ptr<Engine> MakeEngine(const EngineOptions& options = TestEngineOptions(),
                                   FakeTransformer::AtExperts at_experts = nullptr, Clock* clock = Clock::Real(),
                                   ExpertPool* experts = nullptr);
// Over a transformer that draws tokens where it may.
std::unique_ptr<Engine> MakeDrawingEngine(const EngineOptions& options = TestEngineOptions(),
                                          FakeTransformer::AtExperts at_experts = nullptr);

// `tokens` ids that look random, none of them poison or EOS.
std::vector<int32_t> TestPrompt(int tokens, uint64_t seed);
// Asks for everything that ExpectAnswer compares, and goes on past EOS.
EngineRequest TestRequest(int prompt, int max_tokens, uint64_t seed = 1);

// Collects the events of one sequence.
class Answer {
 public:
  TokenCallback Callback() {
    return [this](const TokenEvent& event) {
      std::lock_guard<std::mutex> lock(mutex_);
      EXPECT_FALSE(ended_) << "an event after the last one";
      if (event.token >= 0) ids_.push_back(event.token);
      const bool first = event.token >= 0 ? ids_.size() == 1 : ids_.empty() && event.ended();
      if (first) cached_tokens_ = event.cached_tokens;
      if (event.token >= 0) token_experts_.push_back(event.token_experts);
      if (event.logprobs.has_value()) logprobs_.push_back(*event.logprobs);
      for (const TokenLogprobs& logprobs : event.prompt_logprobs) {
        EXPECT_TRUE(first) << "they come with the first token";
        prompt_logprobs_.push_back(logprobs);
      }
      last_ = event;
      ended_ = event.ended();
      changed_.notify_all();
    };
  }
  const TokenEvent& Wait() {
    std::unique_lock<std::mutex> lock(mutex_);
    EXPECT_TRUE(changed_.wait_for(lock, std::chrono::seconds(60), [this] { return ended_; })) << "no end";
    return last_;
  }
  // After Wait.
  const std::vector<int32_t>& ids() const { return ids_; }
  int32_t cached_tokens() const { return cached_tokens_; }
  const std::vector<TokenLogprobs>& logprobs() const { return logprobs_; }
  // [ids][layers][top_k]
  const std::vector<std::vector<std::vector<int32_t>>>& token_experts() const { return token_experts_; }
  const std::vector<TokenLogprobs>& prompt_logprobs() const { return prompt_logprobs_; }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<int32_t> ids_;
  int32_t cached_tokens_ = 0;
  std::vector<TokenLogprobs> logprobs_, prompt_logprobs_;
  std::vector<std::vector<std::vector<int32_t>>> token_experts_;
  TokenEvent last_;
  bool ended_ = false;
};

// Lets a test hold the engine in the middle of a step.
class Gate {
 public:
  FakeTransformer::AtExperts Hook() {
    return [this](absl::Span<const SequenceSlice>) {
      std::unique_lock<std::mutex> lock(mutex_);
      ++steps_;
      changed_.notify_all();
      changed_.wait(lock, [this] { return open_ || permits_ > 0; });
      if (!open_) --permits_;
      return absl::OkStatus();
    };
  }
  void Step() {
    std::lock_guard<std::mutex> lock(mutex_);
    ++permits_;
    changed_.notify_all();
  }
  void Open() {
    std::lock_guard<std::mutex> lock(mutex_);
    open_ = true;
    changed_.notify_all();
  }
  void WaitForStep(int step) {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [&] { return steps_ >= step; });
  }
  int steps() {
    std::lock_guard<std::mutex> lock(mutex_);
    return steps_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  int steps_ = 0, permits_ = 0;
  bool open_ = false;
};

// What comes of a request.
struct ExpectedAnswer {
  std::vector<int32_t> ids;
  uint64_t logits_hash = 0;
  std::vector<uint32_t> expert_use = std::vector<uint32_t>(5, 0);  // of the MoE layer
  std::vector<std::vector<std::vector<int32_t>>> token_experts;    // [ids][layers][top_k], the dense layer empty
};
// The answer by definition: one token after the other from the fake model's formula.
// Rows of the first `cached_tokens` tokens go to no expert.
ExpectedAnswer ExpectedOf(const EngineRequest& request, int32_t cached_tokens = 0);
// Waits for the answer; ids, hash and expert use must be as defined.
void ExpectAnswer(Answer& answer, const EngineRequest& request);

}  // namespace conclave

#endif  // CONCLAVE_ROUTER_SERVICE_ENGINE_TESTING_H_
