// What an answer is made of: sampling parameters, stops, log probabilities, and its resumption elsewhere.
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

}  // namespace
}  // namespace conclave
