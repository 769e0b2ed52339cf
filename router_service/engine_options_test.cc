// What an engine refuses before anything runs: options, sizes and requests.
#include <gtest/gtest.h>

#include <functional>
#include <limits>
#include <string>

#include "router_service/engine.h"
#include "router_service/engine_internal.h"
#include "router_service/fake_transformer.h"
#include "router_service/live_sequence.h"

namespace conclave {
namespace {

EngineOptions Options() {
  EngineOptions options;
  options.kv_bytes = 1 << 20;
  return options;
}

void ExpectInvalid(const absl::Status& status, const std::string& words) {
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << words;
  EXPECT_NE(status.message().find(words), std::string::npos) << status;
}

TEST(EngineOptionsTest, NamesTheOptionThatIsOutOfRange) {
  const auto expect = [](const std::string& field, const std::function<void(EngineOptions&)>& change) {
    EngineOptions options = Options();
    change(options);
    ExpectInvalid(options.Validate(), field + " is ");
    ExpectInvalid(PlanEngine(FakeSpec(), DType::kF32, options).status(), field + " is ");
  };
  expect("batch_tokens_max", [](EngineOptions& options) { options.batch_tokens_max = 0; });
  expect("batch_tokens_max", [](EngineOptions& options) { options.batch_tokens_max = 1 << 20; });
  expect("prefill_chunk_tokens_max", [](EngineOptions& options) { options.prefill_chunk_tokens_max = -1; });
  expect("sequences_running_max", [](EngineOptions& options) { options.sequences_running_max = 0; });
  expect("sequences_queued_max", [](EngineOptions& options) { options.sequences_queued_max = 0; });
  expect("kv_bytes", [](EngineOptions& options) { options.kv_bytes = 0; });
  for (const int tokens : {-16, 1, 17, 48, 128}) {
    expect("kv_block_tokens", [tokens](EngineOptions& options) { options.kv_block_tokens = tokens; });
  }
  expect("context_max", [](EngineOptions& options) { options.context_max = -1; });
  expect("prefill_stretch_max", [](EngineOptions& options) { options.prefill_stretch_max = 0.9; });
  expect("prefill_stretch_max", [](EngineOptions& options) { options.prefill_stretch_max = 1.0; });
  EXPECT_TRUE(Options().Validate().ok());
}

TEST(EnginePlanTest, RefusesACacheThatCannotHoldOneContextAndSaysTheNumbers) {
  EngineOptions options = Options();
  // 96 tokens need 6 blocks of 512 bytes.
  options.kv_bytes = 3071;
  const absl::Status status = PlanEngine(FakeSpec(), DType::kF32, options).status();
  ExpectInvalid(status, "kv_bytes is 3071, room for 80 tokens");
  ExpectInvalid(status, "context_max 96 tokens needs 3072");
  options.kv_bytes = 3072;
  EXPECT_EQ(PlanEngine(FakeSpec(), DType::kF32, options)->kv_blocks, 6);
  options.kv_bytes = 3071;
  options.context_max = 80;
  EXPECT_EQ(PlanEngine(FakeSpec(), DType::kF32, options)->kv_blocks, 5);
  EXPECT_EQ(PlanEngine(FakeSpec(), DType::kBF16, options)->kv_blocks, 11) << "bfloat16 takes half the bytes";
}

TEST(EnginePlanTest, LargerBlocksHoldNoMoreTokensThanTheBytesDo) {
  EngineOptions options = Options();
  options.kv_block_tokens = 64;  // 96 tokens need 2 blocks of 2,048 bytes
  options.kv_bytes = 4095;
  ExpectInvalid(PlanEngine(FakeSpec(), DType::kF32, options).status(),
                "room for 64 tokens; one sequence of context_max 96 tokens needs 4096");
  options.kv_bytes = 6143;
  const auto plan = PlanEngine(FakeSpec(), DType::kF32, options);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->kv_blocks, 2);
  EXPECT_EQ(plan->kv_block_tokens, 64);
}

TEST(EnginePlanTest, TakesTheModelsContextUnlessASmallerOneIsAsked) {
  EngineOptions options = Options();
  EXPECT_EQ(PlanEngine(FakeSpec(), DType::kF32, options)->context_max, 96);
  options.context_max = 17;
  EXPECT_EQ(PlanEngine(FakeSpec(), DType::kF32, options)->context_max, 17);
  options.context_max = 97;
  ExpectInvalid(PlanEngine(FakeSpec(), DType::kF32, options).status(), "context_max is 97, more than the model's own");
}

TEST(EnginePlanTest, KeepsNoMoreBlocksThanSequencesCanFillAndNoMoreLogitsThanFit) {
  EngineOptions options = Options();
  options.kv_bytes = int64_t{1} << 40;
  options.sequences_running_max = 3;
  EXPECT_EQ(PlanEngine(FakeSpec(), DType::kF32, options)->kv_blocks, 18);
  ModelSpec large = FakeSpec();
  large.vocab = 129280;
  const auto plan = PlanEngine(large, DType::kF32, options);
  EXPECT_EQ(plan->logit_rows_max, (64 << 20) / (4 * 129280));
  EXPECT_EQ(plan->transformer().rows_max, 512);
  options.sequences_running_max = 200;
  EXPECT_EQ(PlanEngine(large, DType::kF32, options)->logit_rows_max, 200) << "each must get one row a step";
}

TEST(EngineRequestTest, NamesTheFieldThatIsOutOfRange) {
  const auto expect = [](const std::string& words, const std::function<void(EngineRequest&)>& change) {
    EngineRequest request;
    request.prompt_ids = {1, 2, 3};
    change(request);
    ExpectInvalid(ValidateRequest(request, FakeSpec(), 96), words);
  };
  const float nan = std::numeric_limits<float>::quiet_NaN();
  expect("prompt_ids is empty", [](EngineRequest& request) { request.prompt_ids.clear(); });
  expect("prompt_ids[1] is 61; ids must be in [0, 61)", [](EngineRequest& request) { request.prompt_ids[1] = 61; });
  expect("prompt_ids[2] is -1", [](EngineRequest& request) { request.prompt_ids[2] = -1; });
  expect("prompt_ids has 96 tokens; the context holds 96",
         [](EngineRequest& request) { request.prompt_ids.resize(96); });
  expect("max_tokens is -5", [](EngineRequest& request) { request.max_tokens = -5; });
  expect("generated_ids has 1 ids, with which the answer is complete: max_tokens is 0", [](EngineRequest& request) {
    request.generated_ids = {4};
    request.max_tokens = 0;
  });
  expect("min_tokens is 1; it must be in [0, max_tokens]", [](EngineRequest& request) {
    request.min_tokens = 1;
    request.max_tokens = 0;
  });
  expect("temperature is nan", [&](EngineRequest& request) { request.sampling.temperature = nan; });
  expect("top_p is 0", [](EngineRequest& request) { request.sampling.top_p = 0; });
  expect("top_k is -1", [](EngineRequest& request) { request.sampling.top_k = -1; });
  expect("stop_token_ids[0] is 61", [](EngineRequest& request) { request.stop_ids = {61}; });
  expect("stop_token_ids has 2000", [](EngineRequest& request) { request.stop_ids.assign(2000, 4); });
  expect("logit_bias has the id 61", [](EngineRequest& request) { request.sampling.logit_bias = {{61, 1.0f}}; });
  expect("min_tokens is -1", [](EngineRequest& request) { request.min_tokens = -1; });
  expect("min_tokens is 129; it must be in [0, max_tokens]", [](EngineRequest& request) { request.min_tokens = 129; });
  expect("top_logprobs is -1", [](EngineRequest& request) { request.top_logprobs = -1; });
  expect("top_logprobs is 65", [](EngineRequest& request) { request.top_logprobs = 65; });
  expect("prompt_logprobs is set without", [](EngineRequest& request) { request.prompt_logprobs = true; });
  expect("generated_ids[1] is -3", [](EngineRequest& request) { request.generated_ids = {4, -3}; });
  expect("generated_ids[1] is 60, which ended", [](EngineRequest& request) { request.generated_ids = {4, 60}; });
  expect("generated_ids has 2 ids, with which the answer is complete: max_tokens is 2", [](EngineRequest& request) {
    request.generated_ids = {4, 5};
    request.max_tokens = 2;
  });
  expect("generated_ids has 93 ids", [](EngineRequest& request) { request.generated_ids.assign(93, 5); });
  EngineRequest largest;
  largest.prompt_ids.assign(95, 60);
  largest.max_tokens = std::numeric_limits<int>::max();
  EXPECT_TRUE(ValidateRequest(largest, FakeSpec(), 96).ok());
  largest.max_tokens = 0;
  EXPECT_TRUE(ValidateRequest(largest, FakeSpec(), 96).ok()) << "it is only read";
}

}  // namespace
}  // namespace conclave
