#include "moe/model/device/device_transformer.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "moe/base/thread_pool.h"
#include "moe/checkpoint/quantize.h"
#include "moe/kernels/accelerator/host_ops.h"
#include "moe/model/device/device_testing.h"
#include "moe/model/local_experts.h"
#include "moe/model/numeric_profile.h"
#include "moe/model/test_models.h"
#include "moe/model/test_runner.h"
#include "moe/tensor/row_format.h"

namespace conclave {
namespace {

using ::testing::HasSubstr;

double LargestDifference(const Logits& got, const Logits& want) {
  double largest = 0;
  EXPECT_EQ(got.size(), want.size());
  for (size_t row = 0; row < std::min(got.size(), want.size()); ++row) {
    for (size_t i = 0; i < want[row].size(); ++i) {
      const double difference = std::fabs(got[row][i] - want[row][i]);
      largest = difference <= largest ? largest : difference;  // NaN is larger than anything
    }
  }
  return largest;
}

struct Shape {
  const char* name;
  ConfigOverrides overrides;
  const char* dtype;
};

class DeviceShapeTest : public testing::TestWithParam<Shape> {};

TEST_P(DeviceShapeTest, LogitsAndRoutingAreTheCpus) {
  const std::string model = Model(GetParam().overrides, GetParam().dtype);
  const HostTarget host = MakeHostTarget("f32");
  const auto device = RunnerOn(*host.target, model);
  const auto cpu = TestRunner::Make(model, Fastest(Compute::kF32), 1);
  ASSERT_TRUE(device != nullptr && cpu != nullptr);
  RoutingLog got_log, want_log;
  const std::vector<int32_t> ids = Prompt(37, 3, 300);
  const auto got = device->Prefill(0, ids, 16, &got_log), want = cpu->Prefill(0, ids, 16, &want_log);
  ASSERT_TRUE(got.ok()) << got.status();
  ASSERT_TRUE(want.ok()) << want.status();
  EXPECT_LT(LargestDifference(*got, *want), 1e-4);
  EXPECT_EQ(got_log.experts, want_log.experts);
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, DeviceShapeTest,
    testing::Values(
        Shape{"V3", {}, "bf16"}, Shape{"Float32Weights", {}, "f32"},
        Shape{"Fp8WithHeadsAcrossScaleBlocks",
              {{"hidden_size", "192"}, {"moe_intermediate_size", "160"}, {"num_hidden_layers", "2"}},
              "fp8"},
        Shape{"NoQueryLatent", {{"q_lora_rank", "null"}}, "bf16"},
        Shape{"Biases", {{"attention_bias", "true"}}, "bf16"},
        Shape{"GreedySoftmax",
              {{"model_type", R"("deepseek_v2")"},
               {"architectures", R"(["DeepseekV2ForCausalLM"])"},
               {"scoring_func", R"("softmax")"},
               {"topk_method", R"("group_limited_greedy")"},
               {"norm_topk_prob", "false"}},
              "bf16"},
        Shape{"TiedEmbeddings", {{"tie_word_embeddings", "true"}}, "bf16"}),
    [](const auto& info) { return info.param.name; });

// In bf16 attention with the heads of the large models runs in bfloat16 over a bfloat16 cache, all else in float32.
TEST(DeviceCacheTest, LatentsThatTensorCoresTakeAreCachedInBfloat16) {
  const std::string small = Model({}, "bf16");
  const std::string large = Model({{"kv_lora_rank", "512"}, {"qk_rope_head_dim", "64"}}, "bf16");
  const HostTarget exact = MakeHostTarget("f32"), rounded = MakeHostTarget("bf16");
  const std::vector<int32_t> ids = Prompt(37, 3, 300);
  for (const std::string& model : {small, large}) {
    const DType want = model == large ? DType::kBF16 : DType::kF32;
    const auto runner = RunnerOn(*rounded.target, model), oracle = RunnerOn(*exact.target, model);
    ASSERT_TRUE(runner != nullptr && oracle != nullptr);
    EXPECT_EQ(rounded.target->cache_dtype(runner->spec()), want);
    EXPECT_EQ(rounded.target->cache_dtype(runner->spec(), RowFormat::kFp8), DType::kF8E4M3);
    EXPECT_EQ(exact.target->cache_dtype(runner->spec()), DType::kF32);
    const auto got = runner->Prefill(0, ids, 16), exact_logits = oracle->Prefill(0, ids, 16);
    ASSERT_TRUE(got.ok() && exact_logits.ok()) << got.status();
    const double difference = LargestDifference(*got, *exact_logits);
    EXPECT_GT(difference, 0) << "nothing was rounded";
    EXPECT_LT(difference, 0.5);
    const auto token_by_token = runner->Prefill(2, ids, 1);
    ASSERT_TRUE(token_by_token.ok());
    ExpectSameBits(*token_by_token, *got, "one token a step");
  }
}

// 300 rows are no whole number of blocks, nor a multiple of 8.
TEST(DeviceHeadTest, AnFp8HeadIsTheCpus) {
  const std::string model = Model({}, "fp8");
  ThreadPool threads(1);
  QuantizeOptions options;
  options.model = model;
  options.to = "fp8";
  options.head = true;
  options.out = model + "-head";
  const absl::Status status = QuantizeModel(options, threads, [](int64_t, int64_t) {}, [] { return false; });
  ASSERT_TRUE(status.ok()) << status;
  const HostTarget host = MakeHostTarget("f32");
  const auto device = RunnerOn(*host.target, options.out);
  const auto cpu = TestRunner::Make(options.out, Fastest(Compute::kF32), 1);
  const auto whole = TestRunner::Make(model, Fastest(Compute::kF32), 1);
  ASSERT_TRUE(device != nullptr && cpu != nullptr && whole != nullptr);
  const std::vector<int32_t> ids = Prompt(9, 3, 300);
  const auto got = device->Prefill(0, ids, 16), want = cpu->Prefill(0, ids, 16), unpacked = whole->Prefill(0, ids, 16);
  ASSERT_TRUE(got.ok() && want.ok() && unpacked.ok());
  EXPECT_LT(LargestDifference(*got, *want), 1e-4);
  EXPECT_GT(LargestDifference(*want, *unpacked), 1e-4);
}

class DeviceTransformerTest : public testing::Test {
 protected:
  const std::string model_ = Model({}, "bf16");
};

TEST_F(DeviceTransformerTest, RowsThroughTheHostGiveTheBitsOfRowsThatStayOnTheDevice) {
  for (const char* compute : {"f32", "bf16", "fp8"}) {
    const HostTarget host = MakeHostTarget(compute);
    const auto runner = RunnerOn(*host.target, model_);
    ASSERT_NE(runner, nullptr);
    ThreadPool threads(1);
    auto remote = host.target->MakeTransformer(runner->checkpoint(), threads, nullptr,
                                               {.rows_max = 32, .logit_rows_max = 32});
    ASSERT_TRUE(remote.ok()) << remote.status();
    auto kv = (*remote)->NewCache(runner->spec(), CacheDType(host.target->kernels().compute), 4, kKvBlockTokens);
    ASSERT_TRUE(kv.ok()) << kv.status();
    const std::vector<int32_t> ids = Prompt(20, 5, 300), blocks = {3, 1};
    MatBuffer logits(DType::kF32, 20, 300);
    RoutingLog log, want_log;
    const absl::Status status = (*remote)->Forward({SequenceSlice{ids, 0, blocks, 20}}, **kv, runner->experts(),
                                                   logits.view(), &log);
    ASSERT_TRUE(status.ok()) << status;
    const auto want = runner->Prefill(0, ids, 20, &want_log);
    ASSERT_TRUE(want.ok()) << want.status();
    Logits got;
    for (int row = 0; row < 20; ++row) {
      got.emplace_back(logits.view().Row<float>(row), logits.view().Row<float>(row) + 300);
    }
    ExpectSameBits(got, *want, compute);
    EXPECT_EQ(log.experts, want_log.experts);
    EXPECT_EQ(log.weights, want_log.weights);
  }
}

TEST_F(DeviceTransformerTest, PacksCachedLatentsAsTheCpuDoes) {
  const HostTarget host = MakeHostTarget("f32");
  const auto device = RunnerOn(*host.target, model_);
  const auto cpu = TestRunner::Make(model_, Fastest(Compute::kF32), 1);
  ASSERT_TRUE(device != nullptr && cpu != nullptr);
  const std::vector<int32_t> ids = Prompt(37, 3, 300);
  const auto exact = device->Prefill(0, ids, 16);
  ASSERT_TRUE(device->NewCache(DType::kF8E4M3).ok());
  ASSERT_TRUE(cpu->NewCache(DType::kF8E4M3).ok());
  const auto got = device->Prefill(0, ids, 16), want = cpu->Prefill(0, ids, 16);
  ASSERT_TRUE(exact.ok() && got.ok() && want.ok());
  // Sums in another order may round a value to its other neighbour.
  const double between = LargestDifference(*got, *want), loss = LargestDifference(*got, *exact);
  EXPECT_GT(loss, 1e-3) << "nothing was rounded";
  EXPECT_LT(between, loss / 4);
  ASSERT_TRUE(device->NewCache(DType::kF8E4M3).ok());
  const auto token_by_token = device->Prefill(3, ids, 1);
  ASSERT_TRUE(token_by_token.ok());
  ExpectSameBits(*token_by_token, *got, "one token a step");
}

TEST_F(DeviceTransformerTest, BlocksOfAnySizeGiveTheSameBits) {
  for (const char* compute : {"f32", "fp8"}) {
    const HostTarget host = MakeHostTarget(compute);
    const auto runner = RunnerOn(*host.target, model_);
    ASSERT_NE(runner, nullptr);
    const DType dtype = CacheDType(host.target->kernels().compute);
    const std::vector<int32_t> ids = Prompt(150, 3, 300);
    const auto want = runner->Prefill(0, ids, 32);
    ASSERT_TRUE(want.ok()) << want.status();
    for (const int block_tokens : {32, 64}) {
      ASSERT_TRUE(runner->NewCache(dtype, 192, block_tokens).ok());
      const auto got = runner->Prefill(2, ids, 19);
      ASSERT_TRUE(got.ok()) << got.status();
      ExpectSameBits(*got, *want, absl::StrCat(compute, ", blocks of ", block_tokens));
    }
  }
}

TEST_F(DeviceTransformerTest, DrawsTokensAndLeavesOutRowsThatNobodyLooksAt) {
  const HostTarget host = MakeHostTarget("f32");
  const auto runner = RunnerOn(*host.target, model_);
  ASSERT_NE(runner, nullptr);
  ThreadPool threads(1);
  auto model =
      host.target->MakeTransformer(runner->checkpoint(), threads, nullptr, {.rows_max = 32, .logit_rows_max = 8});
  ASSERT_TRUE(model.ok()) << model.status();
  auto kv = (*model)->NewCache(runner->spec(), CacheDType(host.target->kernels().compute), 8, kKvBlockTokens);
  ASSERT_TRUE(kv.ok()) << kv.status();
  std::vector<std::vector<int32_t>> ids, blocks;
  for (int i = 0; i < 4; ++i) {
    ids.push_back(Prompt(3 + i, 3 + 2 * i, 300));
    blocks.push_back({i});
  }
  const std::vector<LogitChange> changes = {{11, 1.5f, -1}};
  const auto forward = [&](std::vector<std::optional<TokenDraw>> draws, MatBuffer& logits) {
    std::vector<SequenceSlice> slices;
    for (size_t i = 0; i < ids.size(); ++i) slices.push_back({ids[i], 0, blocks[i], i == 2 ? 2 : 1, draws[i]});
    slices[3].changes = changes;
    std::memset(logits.view().data, 0x5a, logits.bytes());
    const absl::Status status = (*model)->Forward(slices, **kv, runner->experts(), logits.view(), nullptr);
    ASSERT_TRUE(status.ok()) << status;
  };
  MatBuffer all(DType::kF32, 5, 300), some(DType::kF32, 5, 300), untouched(DType::kF32, 1, 300);
  std::memset(untouched.view().data, 0x5a, untouched.bytes());
  forward({{}, {}, {}, {}}, all);
  TokenDraw sampled;
  sampled.temperature = 2.0f;
  sampled.uniform = 0.7f;
  sampled.top_logprobs = 3;
  const std::vector<TokenDraw> draws = {TokenDraw{}, sampled};
  forward({draws[0], {}, {}, draws[1]}, some);  // rows 0 and 4
  const absl::Span<const int32_t> drawn = (*model)->drawn_ids();
  ASSERT_EQ(drawn.size(), 5u);
  const float* const first = all.view().Row<float>(0);
  EXPECT_EQ(drawn[0], std::max_element(first, first + 300) - first);
  std::vector<float> last(all.view().Row<float>(4), all.view().Row<float>(4) + 300);
  last[11] += 1.5f;
  int32_t want_last = -1;
  TokenDraw plain = draws[1];
  plain.top_logprobs = -1;
  DrawArgs args;
  args.x = last.data();
  args.draws = &plain;
  args.ids = &want_last;
  args.rows = 1;
  args.cols = 300;
  host_ops::DrawTokens(args);
  EXPECT_EQ(drawn[4], want_last);
  const DrawnLogprobs told = (*model)->drawn_logprobs(4);
  const float* const raw = all.view().Row<float>(4);
  ASSERT_EQ(told.top.size(), 3u);
  EXPECT_EQ(told.top[0].id, std::max_element(raw, raw + 300) - raw);
  EXPECT_EQ(told.logits.largest, raw[told.top[0].id]);
  EXPECT_EQ(told.logits.drawn, raw[want_last]);
  for (int row = 0; row < 5; ++row) {
    const void* const want = row == 0 || row == 4 ? untouched.view().data : all.view().RowBytes(row);
    EXPECT_EQ(std::memcmp(some.view().RowBytes(row), want, 300 * sizeof(float)), 0) << row;
  }
}

TEST_F(DeviceTransformerTest, TellsOfRowsWhoseNextIdsAreKnownAndLeavesTheirLogitsOut) {
  const HostTarget host = MakeHostTarget("f32");
  const auto runner = RunnerOn(*host.target, model_);
  ASSERT_NE(runner, nullptr);
  ThreadPool threads(1);
  const TransformerOptions limits = {.rows_max = 32, .logit_rows_max = 8};
  auto model = host.target->MakeTransformer(runner->checkpoint(), threads, nullptr, limits);
  ASSERT_TRUE(model.ok()) << model.status();
  auto kv = (*model)->NewCache(runner->spec(), CacheDType(host.target->kernels().compute), 8, kKvBlockTokens);
  ASSERT_TRUE(kv.ok()) << kv.status();
  const std::vector<int32_t> ids = Prompt(6, 3, 300), first = {0}, second = {1};
  MatBuffer all(DType::kF32, 4, 300), some(DType::kF32, 4, 300);
  std::vector<SequenceSlice> slices = {{ids, 0, first, 1}, {ids, 0, second, 3}};
  ASSERT_TRUE((*model)->Forward(slices, **kv, runner->experts(), all.view(), nullptr).ok());
  std::memset(some.view().data, 0x5a, some.bytes());
  const std::vector<float> untouched(some.view().Row<float>(0), some.view().Row<float>(0) + 300);
  // Two that are known, with the draw behind them; the other slice's row comes to the host.
  const std::vector<int32_t> given = {7, 299};
  slices[1].given = given;
  slices[1].given_top_logprobs = 1;
  slices[1].draw = TokenDraw{.top_logprobs = 2};
  ASSERT_TRUE((*model)->Forward(slices, **kv, runner->experts(), some.view(), nullptr).ok());
  EXPECT_EQ(std::memcmp(some.view().RowBytes(0), all.view().RowBytes(0), 300 * sizeof(float)), 0);
  for (int row = 1; row < 4; ++row) {
    SCOPED_TRACE(row);
    const float* const raw = all.view().Row<float>(row);
    const int32_t best = static_cast<int32_t>(std::max_element(raw, raw + 300) - raw);
    const int32_t want = row < 3 ? given[row - 1] : best;
    ASSERT_EQ((*model)->drawn_ids()[row], want);
    const DrawnLogprobs told = (*model)->drawn_logprobs(row);
    ASSERT_EQ(told.top.size(), row < 3 ? 1u : 2u);
    EXPECT_EQ(told.top[0].id, best);
    EXPECT_EQ(told.logits.drawn, raw[want]);
    EXPECT_EQ(std::memcmp(some.view().RowBytes(row), untouched.data(), 300 * sizeof(float)), 0);
  }
}

TEST(HostOps, TheLowestOfEqualsIsBestAndNoneWhereAValueIsNotFinite) {
  float x[] = {1, 3, -0.0f, 3, 0.0f, -0.0f, -5, -2, 1, NAN, 2, 0, 1, 2, INFINITY, 0};
  int32_t best[4] = {};
  const std::vector<TokenDraw> draws(4);
  DrawArgs args;
  args.x = x;
  args.draws = draws.data();
  args.ids = best;
  args.rows = 4;
  args.cols = 4;
  host_ops::DrawTokens(args);
  EXPECT_THAT(best, testing::ElementsAre(1, 0, -1, -1));
}

TEST_F(DeviceTransformerTest, ModelsOnOneAcceleratorNeverReplayEachOthersGraphs) {
  const HostTarget host = MakeHostTarget("f32");
  for (int model = 0; model < 2; ++model) {  // the second after the first has gone, which leaves its graphs behind
    const auto runner = RunnerOn(*host.target, model_);
    ASSERT_NE(runner, nullptr);
    ASSERT_TRUE(runner->Prefill(0, Prompt(6, 3, 300), 6).ok());
  }
  const std::vector<uint64_t>& keys = host.accelerator->graph_keys();
  ASSERT_EQ(keys.size(), 2u);
  EXPECT_NE(keys[0], keys[1]);
}

TEST_F(DeviceTransformerTest, DecodingStepsAreReplayedInPiecesBetweenCallsOfAPoolElsewhere) {
  const HostTarget host = MakeHostTarget("bf16");
  const auto runner = RunnerOn(*host.target, model_);
  ASSERT_NE(runner, nullptr);
  ThreadPool threads(1);
  auto remote =
      host.target->MakeTransformer(runner->checkpoint(), threads, nullptr, {.rows_max = 8, .logit_rows_max = 8});
  ASSERT_TRUE(remote.ok()) << remote.status();
  auto kv = (*remote)->NewCache(runner->spec(), CacheDType(host.target->kernels().compute), 4, kKvBlockTokens);
  ASSERT_TRUE(kv.ok()) << kv.status();
  const std::vector<int32_t> ids = Prompt(12, 5, 300), blocks = {2};
  const auto want = runner->Prefill(0, ids, 12);
  ASSERT_TRUE(want.ok()) << want.status();
  Logits got;
  std::vector<RoutingLog> logs(12);
  const size_t before = host.accelerator->graph_keys().size();
  for (int32_t i = 0; i < 12; ++i) {
    MatBuffer logits(DType::kF32, 1, 300);
    const absl::Status status =
        (*remote)->Forward({SequenceSlice{absl::MakeConstSpan(ids).subspan(i, 1), i, blocks, 1}}, **kv,
                           runner->experts(), logits.view(), &logs[i]);
    ASSERT_TRUE(status.ok()) << status;
    got.emplace_back(logits.view().Row<float>(0), logits.view().Row<float>(0) + 300);
    EXPECT_EQ(logs[i].experts.size(), logs[0].experts.size());
  }
  ExpectSameBits(got, *want, "token by token");
  // The first step records; two for each MoE layer, its shared expert and what comes after it, and the one before them.
  const std::vector<uint64_t>& keys = host.accelerator->graph_keys();
  EXPECT_EQ(keys.size() - before, static_cast<size_t>(2 * runner->spec().moe_layers() + 1));
  EXPECT_EQ(std::set<uint64_t>(keys.begin(), keys.end()).size(), keys.size());
}

TEST_F(DeviceTransformerTest, BitsDoNotDependOnBatchMatesOrChunks) {
  for (const char* compute : {"bf16", "fp8"}) {
    const HostTarget host = MakeHostTarget(compute);
    const auto runner = RunnerOn(*host.target, model_);
    ASSERT_NE(runner, nullptr);
    const std::vector<int32_t> ids = Prompt(24, 3, 300);
    const auto alone = runner->Prefill(0, ids, 24);
    ASSERT_TRUE(alone.ok()) << alone.status();
    Logits beside;
    for (size_t begin = 0; begin < ids.size(); begin += 4) {
      const std::vector<int32_t> piece(ids.begin() + begin, ids.begin() + begin + 4);
      const auto step = runner->Step({{2, {static_cast<int32_t>(begin)}}, {1, piece}, {3, Prompt(9, 5, 300)}});
      ASSERT_TRUE(step.ok()) << step.status();
      beside.insert(beside.end(), step->begin() + 1, step->begin() + 5);
    }
    ExpectSameBits(beside, *alone, std::string("beside others, in chunks, ") + compute);
  }
}

TEST_F(DeviceTransformerTest, Fp8KeepsLatentsInBfloat16AndStaysNearFloat32) {
  const std::string model = Model({}, "fp8");
  const HostTarget host = MakeHostTarget("fp8");
  const auto device = RunnerOn(*host.target, model);
  const auto cpu = TestRunner::Make(model, Fastest(Compute::kF32), 1);
  ASSERT_TRUE(device != nullptr && cpu != nullptr);
  EXPECT_EQ(device->kv().dtype(), DType::kBF16);
  const std::vector<int32_t> ids = Prompt(12, 3, 300);
  RoutingLog got_log, want_log;
  const auto got = device->Prefill(0, ids, 12, &got_log), want = cpu->Prefill(0, ids, 12, &want_log);
  ASSERT_TRUE(got.ok()) << got.status();
  ASSERT_TRUE(want.ok()) << want.status();
  EXPECT_EQ(got_log.experts, want_log.experts) << "no choice of these rows is a near tie";
  EXPECT_GT(LargestDifference(*got, *want), 0.0);
  EXPECT_LT(LargestDifference(*got, *want), 0.1);
}

TEST_F(DeviceTransformerTest, ASequenceWithAHiddenStateThatIsNoNumberFailsAloneAndNamesTheLayer) {
  const HostTarget host = MakeHostTarget("f32");
  const auto runner = RunnerOn(*host.target, model_);
  ASSERT_NE(runner, nullptr);
  const std::vector<int32_t> ids = Prompt(5, 1, 300);
  const auto want = runner->Prefill(1, ids, 5);
  ASSERT_TRUE(want.ok()) << want.status();
  runner->Restart(1);
  // The memory of the device is this process's: a cached latent of sequence 0 goes bad in layer 2.
  ASSERT_TRUE(runner->Step({{0, {7, 8, 9}}}).ok());
  for (int32_t block = 0; block < runner->kv().blocks(); ++block) {
    if (block % TestRunner::kSequencesMax != 0) continue;
    const MatView rows = runner->kv().Block(LayerId{2}, block);
    rows.Row<float>(0)[0] = std::numeric_limits<float>::quiet_NaN();
  }
  const auto got = runner->Step({{0, {10}}, {1, ids}});
  ASSERT_TRUE(got.ok()) << got.status();
  const absl::Status bad = runner->transformer().SliceStatus(0);
  EXPECT_EQ(bad.code(), absl::StatusCode::kInternal) << bad;
  EXPECT_THAT(std::string(bad.message()), HasSubstr("layer 2:"));
  EXPECT_TRUE(runner->transformer().SliceStatus(1).ok());
  ExpectSameBits(Logits(got->begin() + 1, got->end()), *want, "beside a sequence that failed");
}

TEST_F(DeviceTransformerTest, ALostDeviceIsUnavailable) {
  const HostTarget host = MakeHostTarget("f32");
  const auto runner = RunnerOn(*host.target, model_);
  ASSERT_NE(runner, nullptr);
  ASSERT_TRUE(runner->Step({{0, {7}}}).ok());
  host.accelerator->Lose();
  const auto step = runner->Step({{0, {8}}});
  EXPECT_EQ(step.status().code(), absl::StatusCode::kUnavailable) << step.status();
  EXPECT_THAT(std::string(step.status().message()), HasSubstr("the device is lost"));
}

}  // namespace
}  // namespace conclave
