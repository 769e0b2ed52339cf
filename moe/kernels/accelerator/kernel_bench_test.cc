#include "moe/kernels/accelerator/kernel_bench.h"

#include <set>

#include "gtest/gtest.h"
#include "moe/kernels/accelerator/host_accelerator.h"

namespace conclave {
namespace {

KernelBenchShape Small() {
  KernelBenchShape shape;
  shape.hidden = 128;
  shape.heads = 2;
  shape.q_lora_rank = shape.latent = shape.nope = shape.value = 128;
  shape.rope = 8;
  shape.dense_intermediate = shape.moe_intermediate = 128;
  shape.vocab = 24;
  shape.experts = 2;
  shape.context = 20;
  shape.rows = {1, 3};
  shape.seconds = 0;
  return shape;
}

TEST(KernelBenchTest, TimesEveryOperationForEveryNumberOfRowsAndGivesItsMemoryBack) {
  const auto accelerator = HostAccelerator::Create();
  const auto figures = TimeKernels(*accelerator, Small());
  ASSERT_TRUE(figures.ok()) << figures.status();
  std::set<std::string> names;
  for (const KernelFigure& figure : *figures) {
    names.insert(figure.name);
    EXPECT_GT(figure.seconds, 0) << figure.name;
    EXPECT_TRUE(figure.rows == 1 || figure.rows == 3) << figure.rows;
  }
  EXPECT_EQ(figures->size(), 2 * names.size());
  EXPECT_EQ(names.count("attention over the cache"), 1u);
  EXPECT_EQ(accelerator->allocated_bytes(), 0);
}

TEST(KernelBenchTest, CountsWhatAnOperationMustMoveAndCompute) {
  const auto accelerator = HostAccelerator::Create();
  const auto figures = TimeKernels(*accelerator, Small());
  ASSERT_TRUE(figures.ok()) << figures.status();
  for (const KernelFigure& figure : *figures) {
    if (figure.name != "o projection" || figure.rows != 3) continue;
    EXPECT_EQ(figure.bytes, 128 * 256 + 3 * (128 + 256) * 4);
    EXPECT_EQ(figure.operations, 2.0 * 3 * 128 * 256);
  }
}

TEST(KernelBenchTest, ADeviceThatIsLostOrTooSmallSaysSo) {
  const auto small = HostAccelerator::Create(1000);
  EXPECT_EQ(TimeKernels(*small, Small()).status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(small->allocated_bytes(), 0);
  const auto lost = HostAccelerator::Create();
  lost->Lose();
  EXPECT_EQ(TimeKernels(*lost, Small()).status().code(), absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace conclave
