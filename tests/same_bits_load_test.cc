// Promise 1 under load: 32 requests of every kind at once, in a pool of blocks that is too small for them, beside
// others that are cancelled: long prompts beside decodes, shared prefixes, choices of one prompt, penalties,
// priorities, resumed streams. Each gives the ids and the hash over all logits that it gives alone, in an engine that
// caches nothing. CONCLAVE_TEST_DEVICE=cuda and CONCLAVE_TEST_COMPUTE=f32|bf16|fp8 run it on a GPU.
#include <gtest/gtest.h>

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/synchronization/notification.h"
#include "moe/base/thread_pool.h"
#include "moe/kernels/kernels.h"
#include "moe/model/device/compute_target.h"
#include "moe/model/expert_pool.h"
#include "moe/model/kv_storage.h"
#include "router_service/engine.h"
#include "tests/demo_cluster.h"

namespace conclave {
namespace {

constexpr int kContext = 256;
constexpr int kRowsMax = 64;

class Requests {
 public:
  std::vector<EngineRequest> Mixed() {
    std::vector<EngineRequest> requests;
    for (int i = 0; i < 6; ++i) requests.push_back(Make(Ids(190 + i), 8));
    for (int i = 0; i < 10; ++i) {
      requests.push_back(Make(Ids(1 + 3 * i), 70));
      if (i % 2 == 0) requests.back().sampling = {.temperature = 0.9f, .top_p = 0.95f, .seed = random_()};
    }
    const std::vector<int32_t> system = Ids(100);
    for (int i = 0; i < 8; ++i) {
      requests.push_back(Make(system, 12));
      for (int32_t id : Ids(5 + i)) requests.back().prompt_ids.push_back(id);
      requests.back().cache_salt = i == 7 ? "another tenant" : "";
    }
    for (int prompt = 0; prompt < 2; ++prompt) {
      const EngineRequest first = Make(Ids(40 + 8 * prompt), 24);
      for (int choice = 0; choice < 4; ++choice) {
        requests.push_back(first);
        SamplingParams& sampling = requests.back().sampling;
        sampling = {.temperature = 1.2f, .top_k = 40, .seed = 77, .choice = choice, .min_p = 0.01f};
        sampling.repetition_penalty = 1.2f;
        sampling.frequency_penalty = 0.3f;
        sampling.logit_bias = {{10, 1.5f}};
        requests.back().min_tokens = 24;
        requests.back().ignore_eos = false;
      }
    }
    for (size_t i = 0; i < requests.size(); ++i) requests[i].priority = static_cast<int32_t>(i % 3) - 1;
    return requests;
  }

  EngineRequest Make(std::vector<int32_t> prompt_ids, int answer) {
    EngineRequest request;
    request.prompt_ids = std::move(prompt_ids);
    request.max_tokens = answer;
    request.ignore_eos = true;
    request.hash_logits = true;
    return request;
  }
  std::vector<int32_t> Ids(int count) {
    std::vector<int32_t> ids(count);
    for (int32_t& id : ids) id = static_cast<int32_t>(random_() % DemoCheckpoint().spec().vocab);
    return ids;
  }

 private:
  std::mt19937_64 random_{2026};
};

// Collects one answer.
struct Collector {
  std::vector<int32_t> ids;
  uint64_t logits_hash = 0;
  int32_t cached_tokens = 0;
  absl::Status status;
  absl::Notification ended;
  void Take(const TokenEvent& event) {
    if (event.token >= 0) ids.push_back(event.token);
    cached_tokens += event.cached_tokens;
    if (!event.ended()) return;
    logits_hash = event.logits_hash;
    status = event.status;
    ended.Notify();
  }
};

// Of KV blocks, how many tokens each holds.
class SameBitsLoadTest : public testing::TestWithParam<int> {
 protected:
  void SetUp() override {
    TargetOptions options;
    options.compute = CpuHasBf16() ? "bf16" : "f32";
    if (const char* const device = std::getenv("CONCLAVE_TEST_DEVICE")) options.device = device;
    if (const char* const compute = std::getenv("CONCLAVE_TEST_COMPUTE")) options.compute = compute;
    auto target = ComputeTarget::Create(options);
    ASSERT_TRUE(target.ok()) << target.status();
    target_ = *std::move(target);
    auto experts = target_->MakeLocalExperts(DemoCheckpoint(), threads_, kRowsMax);
    ASSERT_TRUE(experts.ok()) << experts.status();
    experts_ = *std::move(experts);
  }

  std::unique_ptr<Engine> MakeEngine(int kv_tokens, int block_tokens, bool prefix_cache) {
    EngineOptions options;
    options.batch_tokens_max = kRowsMax;
    options.prefill_chunk_tokens_max = 48;
    options.context_max = kContext;
    options.prefix_cache = prefix_cache;
    options.kv_block_tokens = block_tokens;
    options.kv_bytes =
        kv_tokens / block_tokens *
        KvBlockBytes(DemoCheckpoint().spec(), target_->cache_dtype(DemoCheckpoint().spec()), block_tokens);
    auto engine = Engine::Create(DemoCheckpoint(), *target_, threads_, *experts_, experts_.get(), options);
    EXPECT_TRUE(engine.ok()) << engine.status();
    return *std::move(engine);
  }

  std::unique_ptr<ComputeTarget> target_;
  ThreadPool threads_{2};
  std::unique_ptr<ExpertPool> experts_;
};

TEST_P(SameBitsLoadTest, ThirtyTwoMixedRequestsAnswerAsEachDoesAlone) {
  Requests maker;
  std::vector<EngineRequest> requests = maker.Mixed();
  ASSERT_EQ(requests.size(), 32u);
  std::vector<Collector> alone(requests.size()), together(requests.size()), cancelled(8);
  {
    const auto engine = MakeEngine(kContext, kKvBlockTokens, /*prefix_cache=*/false);
    for (size_t i = 0; i < requests.size(); ++i) {
      ASSERT_TRUE(engine->Submit(requests[i], [&, i](const TokenEvent& event) { alone[i].Take(event); }).ok());
      alone[i].ended.WaitForNotification();
      ASSERT_TRUE(alone[i].status.ok()) << alone[i].status;
    }
  }
  // Every fifth is resumed in the middle of its answer.
  for (size_t i = 0; i < requests.size(); i += 5) {
    requests[i].generated_ids.assign(alone[i].ids.begin(), alone[i].ids.begin() + requests[i].max_tokens / 2);
  }
  // Larger blocks leave each sequence more that it does not fill, and are shared where prompts are longer.
  const auto engine = MakeEngine(GetParam() == 16 ? 320 : 1024, GetParam(), /*prefix_cache=*/true);
  for (size_t i = 0; i < requests.size(); ++i) {
    ASSERT_TRUE(engine->Submit(requests[i], [&, i](const TokenEvent& event) { together[i].Take(event); }).ok());
    if (i % 4 != 0) continue;
    // One beside it gives up after three tokens.
    Collector& victim = cancelled[i / 4];
    const EngineRequest request = maker.Make(maker.Ids(20), 100);
    ASSERT_TRUE(engine
                    ->Submit(request,
                             [&](const TokenEvent& event) {
                               victim.Take(event);
                               if (victim.ids.size() == 3 && !event.ended()) engine->Cancel(event.sequence);
                             })
                    .ok());
  }
  int32_t cached_tokens = 0;
  for (size_t i = 0; i < requests.size(); ++i) {
    together[i].ended.WaitForNotification();
    ASSERT_TRUE(together[i].status.ok()) << together[i].status;
    std::vector<int32_t> ids = requests[i].generated_ids;
    ids.insert(ids.end(), together[i].ids.begin(), together[i].ids.end());
    EXPECT_EQ(ids, alone[i].ids) << "request " << i;
    EXPECT_EQ(together[i].logits_hash, alone[i].logits_hash) << "request " << i;
    cached_tokens += together[i].cached_tokens;
  }
  for (Collector& victim : cancelled) {
    victim.ended.WaitForNotification();
    EXPECT_EQ(victim.status.code(), absl::StatusCode::kCancelled);
    EXPECT_LT(victim.ids.size(), 6u);
  }
  if (GetParam() == kKvBlockTokens) {
    EXPECT_GT(engine->stats().preemptions, 0) << "the pool was not too small";
  }
  EXPECT_GT(cached_tokens, 200) << "nothing was shared";
  EXPECT_NE(alone[24].ids, alone[25].ids) << "choices differ";
  EXPECT_EQ(engine->stats().kv_blocks_held(), 0);
}

INSTANTIATE_TEST_SUITE_P(BlockTokens, SameBitsLoadTest, testing::Values(kKvBlockTokens, kDeviceKvBlockTokens));

}  // namespace
}  // namespace conclave
