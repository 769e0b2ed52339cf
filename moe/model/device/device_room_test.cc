// What a model takes of a device's memory: that it is there, enough, and given back.
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "moe/base/thread_pool.h"
#include "moe/kernels/accelerator/host_accelerator.h"
#include "moe/kernels/token_draw.h"
#include "moe/model/device/compute_target.h"
#include "moe/model/device/device_memory.h"
#include "moe/model/device/device_testing.h"
#include "moe/model/kv_storage.h"
#include "moe/model/numeric_profile.h"
#include "moe/model/test_models.h"
#include "moe/model/test_runner.h"
#include "moe/model/transformer.h"
#include "moe/tensor/buffer.h"

namespace conclave {
namespace {

using ::testing::HasSubstr;

TEST(DeviceRoomTest, TheMostChangesThatDrawsMayHaveTakeNoFurtherMemory) {
  const HostTarget host = MakeHostTarget("f32");
  const auto runner = RunnerOn(*host.target, Model({}, "bf16"));
  ASSERT_NE(runner, nullptr);
  ThreadPool threads(1);
  auto model =
      host.target->MakeTransformer(runner->checkpoint(), threads, nullptr, {.rows_max = 8, .logit_rows_max = 8});
  ASSERT_TRUE(model.ok()) << model.status();
  auto kv = (*model)->NewCache(runner->spec(), CacheDType(host.target->kernels().compute), 1, kKvBlockTokens);
  ASSERT_TRUE(kv.ok()) << kv.status();
  const int64_t before = host.accelerator->allocated_bytes();
  const std::vector<LogitChange> changes(kDrawChangesMax, LogitChange{7, 0.0f, -1});
  const std::vector<int32_t> ids = Prompt(3, 5, 300), blocks = {0};
  MatBuffer logits(DType::kF32, 1, 300);
  const SequenceSlice slice{ids, 0, blocks, 1, TokenDraw{}, changes};
  const absl::Status status = (*model)->Forward({slice}, **kv, runner->experts(), logits.view(), nullptr);
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(host.accelerator->allocated_bytes(), before);
}

TEST(DeviceRoomTest, AStepForWhoseTablesThereIsNoRoomLeavesTheStepsBehindItAlone) {
  const TransformerOptions limits = {.rows_max = 8, .logit_rows_max = 8};
  int64_t memory_bytes = int64_t{1} << 32;
  for (const bool fits : {true, false}) {
    auto accelerator = HostAccelerator::Create(memory_bytes);
    HostAccelerator& device = *accelerator;
    // More than the device has, so that it is the device that refuses.
    auto target = ComputeTarget::Create({.device = "cuda", .compute = "f32", .gpu_memory_bytes = int64_t{1} << 33},
                                        std::move(accelerator));
    ASSERT_TRUE(target.ok()) << target.status();
    const auto runner = RunnerOn(**target, Model({}, "bf16"));
    ASSERT_NE(runner, nullptr);
    ThreadPool threads(1);
    auto model = (*target)->MakeTransformer(runner->checkpoint(), threads, nullptr, limits);
    ASSERT_TRUE(model.ok()) << model.status();
    auto kv = (*model)->NewCache(runner->spec(), CacheDType((*target)->kernels().compute), 1, kKvBlockTokens);
    ASSERT_TRUE(kv.ok()) << kv.status();
    memory_bytes = device.allocated_bytes();
    const std::string plan = (*target)->memory()->Plan();
    const std::vector<int32_t> ids = Prompt(3, 5, 300), blocks = {0}, many(1 << 20, 0);
    MatBuffer logits(DType::kF32, 1, 300), want(DType::kF32, 1, 300);
    const auto forward = [&](const std::vector<int32_t>& of, MatBuffer& to) {
      return (*model)->Forward({SequenceSlice{ids, 0, of, 1}}, **kv, runner->experts(), to.view(), nullptr);
    };
    ASSERT_TRUE(forward(blocks, want).ok());
    const absl::Status grown = forward(many, logits);
    EXPECT_EQ(grown.code(), fits ? absl::StatusCode::kOk : absl::StatusCode::kResourceExhausted) << grown;
    EXPECT_EQ((*target)->memory()->Plan() == plan, !fits) << (*target)->memory()->Plan();
    ASSERT_TRUE(forward(blocks, logits).ok());
    EXPECT_EQ(std::memcmp(logits.view().data, want.view().data, want.bytes()), 0);
  }
}

// Fp8 kernels take no dense layer of 192 columns, whose products then leave floats in the workspace; the shared experts
// behind it are of whole scale blocks.
TEST(DeviceRoomTest, OneFeedForwardThatFp8KernelsDoNotTakeHasRoomForItsFloats) {
  for (const bool whole : {false, true}) {
    const ConfigOverrides sizes = {
        {"hidden_size", "128"}, {"moe_intermediate_size", "128"}, {"intermediate_size", whole ? "256" : "192"}};
    const std::string model = Model(sizes, "fp8");
    const HostTarget host = MakeHostTarget("fp8");
    const auto device = RunnerOn(*host.target, model);
    ASSERT_NE(device, nullptr);
    EXPECT_EQ(host.target->memory()->Plan().find("workspace of products 0.0 MiB") != std::string::npos, whole)
        << host.target->memory()->Plan();
    const auto got = device->Prefill(0, Prompt(12, 3, 300), 12);  // the host accelerator looks at the workspace
    ASSERT_TRUE(got.ok()) << got.status();
  }
}

TEST(DeviceRoomTest, AModelThatDoesNotFitIsRefusedWithThePlan) {
  const HostTarget host = MakeHostTarget("f32", 3 << 20);
  const auto runner = TestRunner::Create(Model({}, "bf16"), *host.target, 1);
  ASSERT_EQ(runner.status().code(), absl::StatusCode::kResourceExhausted) << runner.status();
  const std::string message(runner.status().message());
  EXPECT_THAT(message, HasSubstr("--gpu-memory"));
  EXPECT_THAT(message, HasSubstr("expert weights "));
  EXPECT_THAT(message, HasSubstr("together "));
  EXPECT_EQ(host.accelerator->allocated_bytes(), 0) << "what was copied before is free again";
}

TEST(DeviceRoomTest, AllMemoryIsGivenBack) {
  const HostTarget host = MakeHostTarget("f32");
  { ASSERT_NE(RunnerOn(*host.target, Model({}, "bf16")), nullptr); }
  EXPECT_EQ(host.accelerator->allocated_bytes(), 0);
}

}  // namespace
}  // namespace conclave
