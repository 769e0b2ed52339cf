// What an answer is made of: sampling parameters, stops, log probabilities, and its resumption elsewhere.
#include <algorithm>
#include <atomic>
#include <cstddef>
#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "router_service/engine.h"
#include "router_service/engine_testing.h"
#include "router_service/fake_transformer.h"
#include "router_service/logprobs.h"

namespace conclave {
namespace {

// A request that uses everything that depends on what was generated before.
EngineRequest Demanding(uint64_t seed) {
  EngineRequest request = TestRequest(11 + static_cast<int>(seed) % 20, 40, seed);
  request.sampling = {.temperature = 1.5f, .top_p = 0.95f, .seed = seed, .choice = static_cast<int>(seed) % 3};
  request.sampling.repetition_penalty = 1.3f;
  request.sampling.presence_penalty = 0.7f;
  request.sampling.frequency_penalty = 0.4f;
  request.sampling.logit_bias = {{3, 1.0f}, {9, -2.0f}};
  request.ignore_eos = false;
  request.stop_ids = {17, 23, 31};
  request.min_tokens = 25;
  return request;
}

TEST(EngineTest, PenaltiesBiasStopIdsAndMinTokensWorkAsTheyAreDefined) {
  auto engine = MakeEngine();
  int stopped = 0;
  for (uint64_t seed = 0; seed < 8; ++seed) {
    SCOPED_TRACE(seed);
    const EngineRequest request = Demanding(seed);
    Answer answer;
    ASSERT_TRUE(engine->Submit(request, answer.Callback()).ok());
    ExpectAnswer(answer, request);
    stopped += answer.Wait().finish == FinishReason::kStop;
    ASSERT_GE(answer.ids().size(), 25u);
  }
  EXPECT_GT(stopped, 0) << "no answer met a stop id";
}

TEST(EngineTest, TokensThatTheTransformerDrawsAreThoseThatTheSamplerWouldChoose) {
  auto engine = MakeDrawingEngine();
  std::vector<EngineRequest> requests;
  std::vector<Answer> answers(12);
  for (uint64_t seed = 0; seed < answers.size(); ++seed) {
    EngineRequest& request = requests.emplace_back(Demanding(seed));
    if (seed % 3 == 0) request.sampling = {.temperature = 0.8f, .top_p = 0.9f, .seed = seed};
    if (seed % 4 == 1) request.sampling.temperature = 0;
    request.hash_logits = seed % 5 == 0;  // the host's own: their logits must come
    if (seed % 2 == 0) request.top_logprobs = seed == 4 ? 64 : static_cast<int>(seed % 3);
    request.prompt_logprobs = seed == 8;
    ASSERT_TRUE(engine->Submit(request, answers[seed].Callback()).ok());
  }
  for (size_t i = 0; i < answers.size(); ++i) {
    SCOPED_TRACE(i);
    const ExpectedAnswer expected = ExpectedOf(requests[i]);
    const TokenEvent& last = answers[i].Wait();
    ASSERT_TRUE(last.status.ok()) << last.status;
    EXPECT_EQ(answers[i].ids(), expected.ids);
    EXPECT_EQ(last.logits_hash, requests[i].hash_logits ? expected.logits_hash : 0);
    ASSERT_EQ(answers[i].logprobs().size(), i % 2 == 0 ? expected.ids.size() : 0);
    std::vector<int32_t> tokens = requests[i].prompt_ids;
    for (const TokenLogprobs& got : answers[i].logprobs()) {
      const int32_t id = expected.ids[tokens.size() - requests[i].prompt_ids.size()];
      const TokenLogprobs wanted = LogprobsOf(FakeLogits(tokens), id, *requests[i].top_logprobs);
      EXPECT_EQ(got.id, wanted.id);
      EXPECT_EQ(got.logprob, wanted.logprob);
      EXPECT_EQ(got.top, wanted.top);
      tokens.push_back(id);
    }
  }
  Answer bad;
  EngineRequest request = TestRequest(3, 5, 1);
  request.hash_logits = false;
  request.prompt_ids.push_back(kPoisonToken);
  ASSERT_TRUE(engine->Submit(request, bad.Callback()).ok());
  EXPECT_EQ(bad.Wait().status.code(), absl::StatusCode::kInternal);
}

TEST(EngineTest, ATransformerThatDrawsKeepsTheLogitsOfPromptsAndOfAnswersThatMayNotEndYet) {
  for (int chunk : {1, 7, 64}) {
    SCOPED_TRACE(testing::Message() << "chunk " << chunk);
    EngineOptions options = TestEngineOptions();
    options.prefill_chunk_tokens_max = chunk;
    std::atomic<int> rows_brought = 0;
    auto engine = MakeDrawingEngine(options, [&](absl::Span<const SequenceSlice> slices) {
      for (const SequenceSlice& slice : slices) rows_brought += slice.is_told() ? 0 : slice.logit_rows;
      return absl::OkStatus();
    });
    for (uint64_t seed = 0; seed < 8; ++seed) {
      SCOPED_TRACE(testing::Message() << "seed " << seed);
      EngineRequest request = Demanding(seed);
      request.hash_logits = false;
      request.top_logprobs = static_cast<int>(seed) % 4;
      request.prompt_logprobs = true;
      if (seed % 3 == 1) request.sampling = {.temperature = 2.0f, .seed = seed};
      const ExpectedAnswer expected = ExpectedOf(request);
      if (seed >= 4) request.generated_ids.assign(expected.ids.begin(), expected.ids.begin() + 3 + seed);
      Answer answer;
      ASSERT_TRUE(engine->Submit(request, answer.Callback()).ok());
      ASSERT_TRUE(answer.Wait().status.ok()) << answer.Wait().status;
      std::vector<int32_t> ids = request.generated_ids;
      ids.insert(ids.end(), answer.ids().begin(), answer.ids().end());
      EXPECT_EQ(ids, expected.ids);
      ASSERT_EQ(answer.prompt_logprobs().size(), request.prompt_ids.size());
      for (size_t i = 1; i < request.prompt_ids.size(); ++i) {
        const TokenLogprobs wanted = LogprobsOf(FakeLogits(absl::MakeConstSpan(request.prompt_ids).first(i)),
                                                request.prompt_ids[i], *request.top_logprobs);
        EXPECT_EQ(answer.prompt_logprobs()[i].id, wanted.id) << i;
        EXPECT_EQ(answer.prompt_logprobs()[i].logprob, wanted.logprob) << i;
        EXPECT_EQ(answer.prompt_logprobs()[i].top, wanted.top) << i;
      }
    }
    EXPECT_EQ(rows_brought, 0);
    EngineRequest hashed = Demanding(3), bad = Demanding(3);
    Answer of_hashed, of_bad;
    ASSERT_TRUE(engine->Submit(hashed, of_hashed.Callback()).ok());
    ExpectAnswer(of_hashed, hashed);
    EXPECT_GT(rows_brought, 0) << "who hashes logits needs them";
    bad.hash_logits = false;
    bad.top_logprobs = 0;
    bad.prompt_logprobs = true;
    bad.prompt_ids[4] = kPoisonToken;
    ASSERT_TRUE(engine->Submit(bad, of_bad.Callback()).ok());
    EXPECT_EQ(of_bad.Wait().status.code(), absl::StatusCode::kInternal);
  }
}

TEST(EngineTest, WhereEveryTokenEndsTheAnswerMinTokensAreRefusedWhoeverDraws) {
  for (bool draws : {false, true}) {
    auto engine = draws ? MakeDrawingEngine() : MakeEngine();
    EngineRequest request = TestRequest(5, 4, 1);
    request.hash_logits = false;
    request.min_tokens = 2;
    for (int32_t id = 0; id < FakeSpec().vocab; ++id) request.stop_ids.push_back(id);
    Answer answer;
    ASSERT_TRUE(engine->Submit(request, answer.Callback()).ok());
    EXPECT_EQ(answer.Wait().status.code(), absl::StatusCode::kInvalidArgument) << answer.Wait().status;
  }
}

TEST(EngineTest, AResumedAnswerEndsWithTheSameIdsAndTheSameHashAsAnUndisturbedOne) {
  for (int64_t kv_bytes : {kLeastKvBytes, 64 * kBlockBytes}) {
    EngineOptions options = TestEngineOptions();
    options.kv_bytes = kv_bytes;
    options.prefill_chunk_tokens_max = 7;
    auto engine = MakeEngine(options);
    for (uint64_t seed = 0; seed < 4; ++seed) {
      const EngineRequest whole = Demanding(seed);
      const ExpectedAnswer expected = ExpectedOf(whole);
      const size_t length = expected.ids.size();
      std::vector<size_t> cuts = {0, 1, 15, 16, length - 1};
      std::vector<Answer> answers(cuts.size());
      for (size_t i = 0; i < cuts.size(); ++i) {
        EngineRequest rest = whole;
        rest.generated_ids.assign(expected.ids.begin(), expected.ids.begin() + cuts[i]);
        ASSERT_TRUE(engine->Submit(rest, answers[i].Callback()).ok());
      }
      for (size_t i = 0; i < cuts.size(); ++i) {
        SCOPED_TRACE(testing::Message() << "seed " << seed << ", cut at " << cuts[i]);
        EXPECT_TRUE(answers[i].Wait().status.ok()) << answers[i].Wait().status;
        EXPECT_EQ(answers[i].ids(), std::vector<int32_t>(expected.ids.begin() + cuts[i], expected.ids.end()));
        EXPECT_EQ(answers[i].Wait().logits_hash, expected.logits_hash);
        EXPECT_TRUE(std::equal(answers[i].token_experts().begin(), answers[i].token_experts().end(),
                               expected.token_experts.begin() + static_cast<std::ptrdiff_t>(cuts[i]),
                               expected.token_experts.end()));
      }
    }
  }
}

TEST(EngineTest, LogprobsOfAnswerAndPromptAreThoseOfTheRawLogits) {
  for (int chunk : {1, 5, 64}) {
    EngineOptions options = TestEngineOptions();
    options.prefill_chunk_tokens_max = chunk;
    auto engine = MakeEngine(options);
    EngineRequest request = Demanding(2);
    request.top_logprobs = 3;
    request.prompt_logprobs = true;
    Answer answer;
    ASSERT_TRUE(engine->Submit(request, answer.Callback()).ok());
    ExpectAnswer(answer, request);
    std::vector<int32_t> tokens = request.prompt_ids;
    tokens.insert(tokens.end(), answer.ids().begin(), answer.ids().end());
    std::vector<TokenLogprobs> all = answer.prompt_logprobs();
    ASSERT_EQ(all.size(), request.prompt_ids.size());
    EXPECT_EQ(all[0].id, tokens[0]);
    EXPECT_EQ(all[0].logprob, 0);
    EXPECT_TRUE(all[0].top.empty());
    ASSERT_EQ(answer.logprobs().size(), answer.ids().size());
    all.insert(all.end(), answer.logprobs().begin(), answer.logprobs().end());
    for (size_t i = 1; i < tokens.size(); ++i) {
      const TokenLogprobs wanted = LogprobsOf(FakeLogits(absl::MakeConstSpan(tokens).first(i)), tokens[i], 3);
      EXPECT_EQ(all[i].id, wanted.id) << i;
      EXPECT_EQ(all[i].logprob, wanted.logprob) << i;
      EXPECT_EQ(all[i].top, wanted.top) << i;
    }
  }
}

TEST(EngineTest, WithoutTokensToGenerateAPromptHasTheLogprobsOfOneWithAnAnswer) {
  for (const bool draws : {false, true}) {
    for (const int chunk : {1, 7, 64}) {
      SCOPED_TRACE(testing::Message() << (draws ? "drawn, " : "") << "chunks of " << chunk);
      EngineOptions options = TestEngineOptions();
      options.prefill_chunk_tokens_max = chunk;
      auto engine = draws ? MakeDrawingEngine(options) : MakeEngine(options);
      for (const int prompt : {1, 16, 40}) {
        EngineRequest read = TestRequest(prompt, 0, 4), answered = TestRequest(prompt, 1, 4);
        for (EngineRequest* request : {&read, &answered}) {
          request->top_logprobs = 3;
          request->prompt_logprobs = true;
          request->hash_logits = !draws;
        }
        Answer of_read, of_answered;
        ASSERT_TRUE(engine->Submit(read, of_read.Callback()).ok());
        const TokenEvent& end = of_read.Wait();
        ASSERT_TRUE(end.status.ok()) << end.status;
        EXPECT_EQ(end.finish, FinishReason::kLength);
        EXPECT_EQ(end.token, -1);
        EXPECT_TRUE(of_read.ids().empty() && of_read.logprobs().empty() && end.token_experts.empty());
        ASSERT_TRUE(engine->Submit(answered, of_answered.Callback()).ok());
        const TokenEvent& answer_end = of_answered.Wait();
        ASSERT_EQ(of_answered.ids().size(), 1u);
        EXPECT_EQ(end.expert_use, answer_end.expert_use);
        EXPECT_EQ(end.logits_hash, answer_end.logits_hash);
        const std::vector<TokenLogprobs>& wanted = of_answered.prompt_logprobs();
        ASSERT_EQ(of_read.prompt_logprobs().size(), read.prompt_ids.size());
        ASSERT_EQ(wanted.size(), read.prompt_ids.size());
        for (size_t i = 0; i < wanted.size(); ++i) {
          EXPECT_EQ(of_read.prompt_logprobs()[i].id, read.prompt_ids[i]);
          EXPECT_EQ(of_read.prompt_logprobs()[i].logprob, wanted[i].logprob) << i;
          EXPECT_EQ(of_read.prompt_logprobs()[i].top, wanted[i].top) << i;
        }
      }
      EXPECT_EQ(engine->stats().kv_blocks_held(), 0);
    }
  }
}

TEST(EngineTest, APromptThatWasOnlyReadIsFoundInTheCache) {
  auto engine = MakeEngine();
  const EngineRequest answered = TestRequest(70, 10, 8);
  for (int turn = 0; turn < 2; ++turn) {
    EngineRequest read = answered;
    read.max_tokens = 0;
    Answer answer;
    ASSERT_TRUE(engine->Submit(read, answer.Callback()).ok());
    EXPECT_EQ(answer.Wait().finish, FinishReason::kLength);
    EXPECT_EQ(answer.cached_tokens(), turn == 0 ? 0 : 64);
  }
  Answer answer;
  ASSERT_TRUE(engine->Submit(answered, answer.Callback()).ok());
  ExpectAnswer(answer, answered);
  EXPECT_EQ(answer.cached_tokens(), 64);
}

TEST(EngineTest, ChoicesThatArriveTogetherComputeTheirPromptOnceAndAnswerAsTheyWouldAlone) {
  for (int chunk : {5, 64}) {
    EngineOptions options = TestEngineOptions();
    options.prefill_chunk_tokens_max = chunk;
    auto engine = MakeEngine(options);
    std::vector<EngineRequest> requests;
    std::vector<Answer> answers(4);
    for (int choice = 0; choice < 4; ++choice) {
      requests.push_back(TestRequest(50, 20, 3));
      requests.back().sampling = {.temperature = 2.0f, .seed = 5, .choice = choice};
      ASSERT_TRUE(engine->Submit(requests.back(), answers[choice].Callback()).ok());
    }
    for (int choice = 0; choice < 4; ++choice) {
      SCOPED_TRACE(testing::Message() << "choice " << choice << ", chunk " << chunk);
      ExpectAnswer(answers[choice], requests[choice]);
      EXPECT_EQ(answers[choice].cached_tokens(), choice == 0 ? 0 : 48);
    }
    EXPECT_NE(answers[0].ids(), answers[1].ids());
    uint64_t rows = 0;
    const auto totals = engine->ExpertTokens();
    for (uint64_t count : totals[1]) rows += count;
    EXPECT_EQ(rows, 2u * (50 + 3 * 2 + 4 * 19)) << "two experts for each row";
    EXPECT_EQ(engine->stats().kv_blocks_held(), 0);
    EXPECT_GT(engine->stats().kv_blocks_cached, 0);
  }
}

TEST(EngineTest, ARepeatedPromptGivesTheSameBitsFromTheCacheAndReportsIt) {
  for (bool prefix_cache : {true, false}) {
    EngineOptions options = TestEngineOptions();
    options.prefix_cache = prefix_cache;
    auto engine = MakeEngine(options);
    const EngineRequest request = TestRequest(70, 10, 8);
    for (int turn = 0; turn < 3; ++turn) {
      Answer answer;
      ASSERT_TRUE(engine->Submit(request, answer.Callback()).ok());
      ExpectAnswer(answer, request);
      EXPECT_EQ(answer.cached_tokens(), turn == 0 || !prefix_cache ? 0 : 64);
    }
    EngineRequest salted = request, scored = request, resumed = request;
    salted.cache_salt = "tenant";
    scored.top_logprobs = 0;
    scored.prompt_logprobs = true;
    resumed.generated_ids = ExpectedOf(request).ids;
    resumed.generated_ids.resize(9);
    Answer of_salted, of_scored, of_resumed;
    ASSERT_TRUE(engine->Submit(salted, of_salted.Callback()).ok());
    ASSERT_TRUE(engine->Submit(scored, of_scored.Callback()).ok());
    ASSERT_TRUE(engine->Submit(resumed, of_resumed.Callback()).ok());
    ExpectAnswer(of_salted, salted);
    EXPECT_EQ(of_salted.cached_tokens(), 0);
    ExpectAnswer(of_scored, scored);
    EXPECT_EQ(of_scored.cached_tokens(), 0);
    EXPECT_EQ(of_scored.prompt_logprobs().size(), 70u);
    EXPECT_EQ(of_resumed.Wait().logits_hash, ExpectedOf(request).logits_hash);
    EXPECT_EQ(of_resumed.cached_tokens(), prefix_cache ? 64 : 0);
  }
}

}  // namespace
}  // namespace conclave
