// Promise 1 at the engine: ids and logits of an answer depend on model, prompt, sampling parameters and seed alone.
// Each request is first answered alone, prefilled at once, on one thread, with its experts in this process. Then the
// same requests run in every other way, and must give the same ids and the same hash over all float32 logits.
// tests/same_bits_test.py says the same of whole processes.
#include <gtest/gtest.h>

#include <cstdint>
#include <map>
#include <memory>
#include <ostream>
#include <random>
#include <utility>
#include <vector>

#include "absl/synchronization/notification.h"
#include "moe/base/thread_pool.h"
#include "moe/kernels/kernels.h"
#include "moe/model/expert_pool.h"
#include "moe/model/kv_storage.h"
#include "moe/model/local_experts.h"
#include "moe/model/numeric_profile.h"
#include "moe/tensor/row_format.h"
#include "router_service/engine.h"
#include "tests/demo_cluster.h"

namespace conclave {
namespace {

constexpr int kContext = 128;
constexpr int kContextBlocks = kContext / kKvBlockTokens;  // of the smallest blocks, which kv_blocks counts
constexpr int kRowsMax = 256;

// What must not be seen in an answer.
struct Way {
  int threads = 1;
  int chunk = kRowsMax;  // prompt rows of one sequence in one step
  int batch = kRowsMax;  // rows of one step
  int kv_blocks = 8 * kContextBlocks;
  int block_tokens = kKvBlockTokens;
  bool together = true;  // all requests at once, or one after the other
};

std::ostream& operator<<(std::ostream& out, const Way& way) {
  return out << way.threads << " threads, chunk " << way.chunk << ", batch " << way.batch << ", " << way.kv_blocks
             << " KV blocks' bytes in blocks of " << way.block_tokens << " tokens, "
             << (way.together ? "together" : "alone");
}

struct Bits {
  std::vector<int32_t> ids;
  uint64_t logits_hash = 0;
  std::vector<std::vector<uint32_t>> expert_use;
};

// Prompts of 1 … 78 tokens; every other request is sampled.
std::vector<EngineRequest> Requests() {
  std::mt19937_64 random(2026);
  std::vector<EngineRequest> requests(8);
  for (size_t i = 0; i < requests.size(); ++i) {
    requests[i].prompt_ids.resize(1 + 11 * i);
    for (int32_t& id : requests[i].prompt_ids) id = static_cast<int32_t>(random() % DemoCheckpoint().spec().vocab);
    requests[i].max_tokens = 32;
    requests[i].ignore_eos = true;
    requests[i].hash_logits = true;
    requests[i].report_expert_use = true;
    if (i % 2 == 1) requests[i].sampling = {.temperature = 0.8f, .top_p = 0.95f, .seed = 100 + i};
  }
  return requests;
}

// Collects one answer.
struct Collector {
  Bits bits;
  absl::Status status;
  absl::Notification ended;
  void Take(const TokenEvent& event) {
    if (event.token >= 0) bits.ids.push_back(event.token);
    if (!event.ended()) return;
    bits.logits_hash = event.logits_hash;
    bits.expert_use = event.expert_use;
    status = event.status;
    ended.Notify();
  }
};

struct Outcome {
  std::vector<Bits> answers;
  int64_t preemptions = 0;
};

Outcome Answer(const std::vector<EngineRequest>& requests, const Kernels& kernels, const Way& way, ThreadPool& threads,
               ExpertPool& experts, RowFormat cache) {
  EngineOptions options;
  options.kv_format = cache;
  options.batch_tokens_max = way.batch;
  options.prefill_chunk_tokens_max = way.chunk;
  options.sequences_running_max = 8;
  options.context_max = kContext;
  const DType cache_dtype = CacheDType(kernels.compute, cache);
  options.kv_block_tokens = way.block_tokens;
  options.kv_bytes = way.kv_blocks * KvBlockBytes(DemoCheckpoint().spec(), cache_dtype, kKvBlockTokens);
  auto engine = Engine::Create(DemoCheckpoint(), kernels, threads, experts, options);
  EXPECT_TRUE(engine.ok()) << engine.status();
  std::vector<Collector> collectors(requests.size());
  for (size_t i = 0; i < requests.size(); ++i) {
    const auto id = (*engine)->Submit(requests[i], [&, i](const TokenEvent& event) { collectors[i].Take(event); });
    EXPECT_TRUE(id.ok()) << id.status();
    if (!way.together) collectors[i].ended.WaitForNotification();
  }
  Outcome run;
  for (Collector& collector : collectors) {
    collector.ended.WaitForNotification();
    EXPECT_TRUE(collector.status.ok()) << collector.status;
    run.answers.push_back(std::move(collector.bits));
  }
  run.preemptions = (*engine)->stats().preemptions;
  EXPECT_EQ((*engine)->stats().kv_blocks_held(), 0);
  return run;
}

Outcome AnswerHere(const std::vector<EngineRequest>& requests, const Kernels& kernels, const Way& way,
                   RowFormat cache) {
  ThreadPool threads(way.threads);
  auto experts = LocalExperts::Create(DemoCheckpoint(), kernels, threads, kRowsMax);
  EXPECT_TRUE(experts.ok()) << experts.status();
  return Answer(requests, kernels, way, threads, **experts, cache);
}

struct Numbers {
  Compute compute;
  RowFormat cache;
  auto operator<=>(const Numbers&) const = default;
};

class SameBitsTest : public testing::TestWithParam<Numbers> {
 protected:
  void SetUp() override {
    const auto kernels = CpuKernels(GetParam().compute, "");
    ASSERT_TRUE(kernels.ok()) << kernels.status();
    kernels_ = *kernels;
    static std::map<Numbers, std::vector<Bits>>& known = *new std::map<Numbers, std::vector<Bits>>;
    std::vector<Bits>& bits = known[GetParam()];
    if (bits.empty()) bits = AnswerHere(requests_, Way{.together = false}).answers;
    expected_ = bits;
  }

  Outcome AnswerHere(const std::vector<EngineRequest>& requests, const Way& way) const {
    return conclave::AnswerHere(requests, *kernels_, way, GetParam().cache);
  }

  void ExpectTheSame(const Outcome& run) {
    ASSERT_EQ(run.answers.size(), expected_.size());
    for (size_t i = 0; i < expected_.size(); ++i) {
      EXPECT_EQ(run.answers[i].ids, expected_[i].ids) << "request " << i;
      EXPECT_EQ(run.answers[i].logits_hash, expected_[i].logits_hash) << "request " << i;
      EXPECT_EQ(run.answers[i].expert_use, expected_[i].expert_use) << "request " << i;
    }
  }

  const std::vector<EngineRequest> requests_ = Requests();
  const Kernels* kernels_ = nullptr;
  std::vector<Bits> expected_;
};

TEST_P(SameBitsTest, DoNotDependOnOtherRequestsChunksOrThreads) {
  for (const Way& way : {Way{}, Way{.chunk = 64}, Way{.threads = 2, .chunk = 16}, Way{.chunk = 3, .together = false},
                         Way{.threads = 2, .chunk = 1, .batch = 9}, Way{.chunk = 7, .batch = 20},
                         Way{.chunk = 24, .block_tokens = 32}, Way{.threads = 2, .chunk = 40, .block_tokens = 64}}) {
    SCOPED_TRACE(testing::Message() << way);
    ExpectTheSame(AnswerHere(requests_, way));
  }
}

TEST_P(SameBitsTest, DoNotDependOnPreemption) {
  for (const Way& way : {Way{.kv_blocks = kContextBlocks}, Way{.threads = 2, .chunk = 16, .kv_blocks = 12}}) {
    SCOPED_TRACE(testing::Message() << way);
    const Outcome run = AnswerHere(requests_, way);
    EXPECT_GT(run.preemptions, 0);
    ExpectTheSame(run);
  }
}

TEST_P(SameBitsTest, DoNotDependOnPreemptionFromLargerBlocks) {
  // A sequence is let in with a block to spare for each that runs: answers must outgrow that.
  std::vector<EngineRequest> longer(requests_.begin(), requests_.begin() + 4);
  for (EngineRequest& request : longer) request.max_tokens = 90;
  expected_ = AnswerHere(longer, Way{.together = false}).answers;
  const Outcome run = AnswerHere(longer, Way{.chunk = 30, .kv_blocks = kContextBlocks, .block_tokens = 32});
  EXPECT_GT(run.preemptions, 0);
  ExpectTheSame(run);
}

TEST_P(SameBitsTest, DoNotDependOnTransportOrShards) {
  for (DemoTransport transport : {DemoTransport::kInproc, DemoTransport::kGrpc}) {
    for (int shards : {1, 2, 3, 5, 8}) {
      SCOPED_TRACE(testing::Message() << shards << (transport == DemoTransport::kGrpc ? " shards, gRPC" : " shards"));
      DemoCluster cluster(*kernels_, shards, transport, kRowsMax);
      // Chunks and preemption differ too, from one number of shards to the next.
      const Way way{.threads = 1 + shards % 2, .chunk = 11 * shards, .kv_blocks = 8 + shards % 3 * kContextBlocks};
      ThreadPool threads(way.threads);
      ExpectTheSame(Answer(requests_, *kernels_, way, threads, cluster.pool(), GetParam().cache));
    }
  }
}

TEST_P(SameBitsTest, DependOnTheSeedAndThePrompt) {
  std::vector<EngineRequest> changed = requests_;
  for (EngineRequest& request : changed) {
    request.sampling.seed += 1;
    if (request.sampling.temperature == 0) request.prompt_ids.back() ^= 1;
  }
  const Outcome run = AnswerHere(changed, Way{});
  for (size_t i = 0; i < expected_.size(); ++i) {
    EXPECT_NE(run.answers[i].logits_hash, expected_[i].logits_hash) << "the hash of request " << i << " sees nothing";
  }
}

INSTANTIATE_TEST_SUITE_P(Computes, SameBitsTest,
                         testing::Values(Numbers{Compute::kF32, RowFormat::kCompute},
                                         Numbers{Compute::kBF16, RowFormat::kCompute},
                                         Numbers{Compute::kBF16, RowFormat::kFp8}),
                         [](const auto& info) {
                           const std::string compute = info.param.compute == Compute::kF32 ? "F32" : "BF16";
                           return compute + (info.param.cache == RowFormat::kFp8 ? "CacheFp8" : "");
                         });

}  // namespace
}  // namespace conclave
