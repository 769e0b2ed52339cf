#include "router_service/engine_testing.h"

#include <gtest/gtest.h>
#include <xxhash.h>

#include <algorithm>
#include <random>
#include <utility>

#include "router_service/engine_internal.h"
#include "router_service/sampler.h"

namespace conclave {

EngineOptions TestEngineOptions() {
  EngineOptions options;
  options.batch_tokens_max = 64;
  options.prefill_chunk_tokens_max = 32;
  options.sequences_running_max = 8;
  options.sequences_queued_max = 16;
  options.kv_bytes = 64 * kBlockBytes;
  return options;
}

namespace {

NoExperts& Experts() {
  static NoExperts& experts = *new NoExperts;
  return experts;
}

std::unique_ptr<FakeTransformer> NewTransformer(const EngineOptions& options, FakeTransformer::AtExperts at_experts) {
  const auto plan = PlanEngine(FakeSpec(), DType::kF32, options);
  EXPECT_TRUE(plan.ok()) << plan.status();
  return std::make_unique<FakeTransformer>(plan->transformer(), std::move(at_experts));
}

std::unique_ptr<Engine> EngineOver(std::unique_ptr<FakeTransformer> transformer, const EngineOptions& options,
                                   Clock* clock, ExpertPool& experts) {
  ThreadPool& threads = transformer->threads();
  auto engine =
      CreateWithTransformer(std::move(transformer), FakeSpec(), DType::kF32, threads, experts, options, clock);
  EXPECT_TRUE(engine.ok()) << engine.status();
  return *std::move(engine);
}

}  // namespace

std::unique_ptr<Engine> MakeEngine(const EngineOptions& options, FakeTransformer::AtExperts at_experts, Clock* clock,
                                   ExpertPool* experts) {
  return EngineOver(NewTransformer(options, std::move(at_experts)), options, clock,
                    experts != nullptr ? *experts : Experts());
}

std::unique_ptr<Engine> MakeDrawingEngine(const EngineOptions& options, FakeTransformer::AtExperts at_experts) {
  auto transformer = NewTransformer(options, std::move(at_experts));
  transformer->DrawTokens();
  return EngineOver(std::move(transformer), options, Clock::Real(), Experts());
}

std::vector<int32_t> TestPrompt(int tokens, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<int32_t> ids(tokens);
  for (int32_t& id : ids) id = static_cast<int32_t>(random() % kPoisonToken);
  return ids;
}

EngineRequest TestRequest(int prompt, int max_tokens, uint64_t seed) {
  EngineRequest request;
  request.prompt_ids = TestPrompt(prompt, seed);
  request.max_tokens = max_tokens;
  request.hash_logits = true;
  request.report_expert_use = true;
  request.report_token_experts = true;
  request.ignore_eos = true;
  return request;
}

ExpectedAnswer ExpectedOf(const EngineRequest& request, int32_t cached_tokens) {
  ExpectedAnswer expected;
  std::vector<int32_t> tokens = request.prompt_ids;
  std::vector<float> all_logits;
  Sampler sampler(FakeSpec().vocab);
  TokenHistory history(request.prompt_ids, {});
  std::vector<int32_t> ending = request.stop_ids;
  if (!request.ignore_eos) ending.push_back(60);
  while (static_cast<int>(expected.ids.size()) < request.max_tokens && tokens.size() < 96) {
    const auto logits = FakeLogits(tokens);
    const auto chosen = FakeExperts(tokens.back(), static_cast<int32_t>(tokens.size()) - 1);
    expected.token_experts.push_back({{}, {chosen.begin(), chosen.end()}});
    all_logits.insert(all_logits.end(), logits.begin(), logits.end());
    const bool may_end = static_cast<int>(expected.ids.size()) >= request.min_tokens;
    tokens.push_back(
        *sampler.Sample(logits, request.sampling, tokens.size(), &history, may_end ? std::vector<int32_t>() : ending));
    history.AddGenerated(tokens.back());
    expected.ids.push_back(tokens.back());
    if (std::find(ending.begin(), ending.end(), tokens.back()) != ending.end()) break;
  }
  expected.logits_hash = XXH64(all_logits.data(), all_logits.size() * sizeof(float), 0);
  for (size_t i = cached_tokens; i + 1 < tokens.size(); ++i) {
    for (int32_t expert : FakeExperts(tokens[i], static_cast<int32_t>(i))) ++expected.expert_use[expert];
  }
  return expected;
}

void ExpectAnswer(Answer& answer, const EngineRequest& request) {
  const TokenEvent& last = answer.Wait();
  const ExpectedAnswer expected = ExpectedOf(request, answer.cached_tokens());
  ASSERT_TRUE(last.status.ok()) << last.status;
  EXPECT_EQ(answer.ids(), expected.ids);
  EXPECT_EQ(last.logits_hash, expected.logits_hash);
  ASSERT_EQ(last.expert_use.size(), 2u);
  EXPECT_TRUE(last.expert_use[0].empty()) << "the dense layer";
  EXPECT_EQ(last.expert_use[1], expected.expert_use);
  EXPECT_EQ(answer.token_experts(), expected.token_experts);
}

}  // namespace conclave
