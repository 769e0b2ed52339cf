#include "moe/model/linears.h"

#include <cmath>
#include <cstring>
#include <vector>

#include "gtest/gtest.h"
#include "moe/tensor/buffer.h"

namespace conclave {
namespace {

MatBuffer Waves(int64_t rows, int64_t cols, float step) {
  MatBuffer buffer(DType::kF32, rows, cols);
  for (int64_t i = 0; i < rows * cols; ++i) buffer.view().Row<float>(0)[i] = std::sin(step * static_cast<float>(i));
  return buffer;
}

WeightView AsWeight(const MatBuffer& buffer) {
  WeightView weight;
  weight.matrix = buffer.view();
  return weight;
}

TEST(LinearsTest, SeveralJobsOfUnequalWidthAreAllDoneWhateverTheThreads) {
  const MatBuffer x = Waves(5, 300, 0.37f), narrow = Waves(7, 300, 0.11f), wide = Waves(3001, 300, 0.05f);
  const WeightView narrow_weight = AsWeight(narrow), wide_weight = AsWeight(wide);
  const Kernels& kernels = ReferenceKernels(Compute::kF32);
  MatBuffer want_narrow(DType::kF32, 5, 7), want_wide(DType::kF32, 5, 3001);
  kernels.linear(x.view(), narrow_weight, 0, 7, want_narrow.view());
  kernels.linear(x.view(), wide_weight, 0, 3001, want_wide.view());
  for (int threads = 1; threads <= 3; ++threads) {
    ThreadPool pool(threads);
    MatBuffer got_narrow(DType::kF32, 5, 7), got_wide(DType::kF32, 5, 3001);
    RowPacker packer(kernels, pool, 5, 300);
    RunLinears(kernels, pool, packer.Pack(x.view(), {&narrow_weight, &wide_weight}),
               {{&narrow_weight, got_narrow.view()}, {&wide_weight, got_wide.view()}});
    EXPECT_EQ(std::memcmp(got_narrow.view().data, want_narrow.view().data, want_narrow.bytes()), 0) << threads;
    EXPECT_EQ(std::memcmp(got_wide.view().data, want_wide.view().data, want_wide.bytes()), 0) << threads;
  }
}

TEST(LinearsTest, SmallLoopsStayOnOneThreadAndLargeOnesAreShared) {
  EXPECT_GE(TaskGrain(100, 10, 8), 100);
  EXPECT_LE(TaskGrain(100, 1 << 20, 8), 4);
  EXPECT_EQ(TaskGrain(100, 1 << 20, 1), 100);
  EXPECT_GE(TaskGrain(0, 0, 2), 1);
}

}  // namespace
}  // namespace conclave
