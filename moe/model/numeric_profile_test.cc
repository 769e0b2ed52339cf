#include "moe/model/numeric_profile.h"

#include "gtest/gtest.h"

namespace conclave {
namespace {

TEST(NumericProfileTest, NamesEverythingThatDecidesBits) {
  EXPECT_EQ(NumericProfile(ReferenceKernels(Compute::kF32)),
            "r5/reference/f32/dense-f32/row-f32/kv-f32/mla-absorbed/tp1");
  EXPECT_EQ(NumericProfile(ReferenceKernels(Compute::kBF16)),
            "r5/reference/bf16/dense-f32/row-bf16/kv-f32/mla-absorbed/tp1");
  EXPECT_EQ(NumericProfile(ReferenceKernels(Compute::kBF16), RowFormat::kFp8, DType::kBF16),
            "r5/reference/bf16/dense-f32/row-bf16-fp8/kv-bf16/mla-absorbed/tp1");
  EXPECT_EQ(NumericProfile(ReferenceKernels(Compute::kF32), RowFormat::kCompute, DType::kF8E4M3),
            "r5/reference/f32/dense-f32/row-f32/kv-fp8/mla-absorbed/tp1");
}

// A router compares these strings: shards of the same instruction set that compute in bf16 are refused.
TEST(NumericProfileTest, IntegersAreAProfileOfTheirOwnInDenseLayersToo) {
  EXPECT_EQ(NumericProfile(ReferenceKernels(Compute::kInt8)),
            "r5/reference/int8/dense-int8-f32/row-bf16/kv-f32/mla-absorbed/tp1");
  for (const char* isa : {"scalar", "avx2", "avx512", "avx512-bf16", "amx"}) {
    const absl::StatusOr<const Kernels*> integers = CpuKernels(Compute::kInt8, isa);
    if (!integers.ok()) continue;  // this CPU cannot run it
    const absl::StatusOr<const Kernels*> rounded = CpuKernels(Compute::kBF16, isa);
    ASSERT_TRUE(rounded.ok()) << rounded.status();
    EXPECT_NE(NumericProfile(**integers), NumericProfile(**rounded));
    EXPECT_EQ((*DenseKernels(**integers))->compute, Compute::kInt8F32);
    EXPECT_EQ((*DenseKernels(**integers))->isa, (*integers)->isa);
    EXPECT_EQ(*GateKernels(**integers), *GateKernels(**rounded));
  }
}

TEST(NumericProfileTest, TilesSplitInputsAndGatesAreFloat32) {
  const absl::StatusOr<const Kernels*> kernels = CpuKernels(Compute::kBF16, "amx");
  if (!kernels.ok()) GTEST_SKIP() << kernels.status();
  EXPECT_EQ(NumericProfile(**kernels), "r5/amx/bf16/dense-bf16x3/row-bf16/kv-f32/mla-absorbed/tp1");
  EXPECT_EQ((*DenseKernels(**kernels))->compute, Compute::kBF16x3);
  EXPECT_EQ((*GateKernels(**kernels))->compute, Compute::kF32);
}

TEST(NumericProfileTest, TheDenseTableIsFloat32OfTheSameInstructionSet) {
  for (const char* isa : {"scalar", "avx2", "avx512", "avx512-bf16"}) {
    const absl::StatusOr<const Kernels*> kernels = CpuKernels(Compute::kBF16, isa);
    if (!kernels.ok()) continue;  // this CPU cannot run it
    const absl::StatusOr<const Kernels*> dense = DenseKernels(**kernels);
    ASSERT_TRUE(dense.ok()) << dense.status();
    EXPECT_EQ((*dense)->compute, Compute::kF32);
    EXPECT_EQ((*kernels)->isa.substr(0, (*dense)->isa.size()), (*dense)->isa);
  }
  EXPECT_EQ(*DenseKernels(ReferenceKernels(Compute::kBF16)), &ReferenceKernels(Compute::kF32));
  EXPECT_EQ(*DenseKernels(ReferenceKernels(Compute::kF32)), &ReferenceKernels(Compute::kF32));
}

}  // namespace
}  // namespace conclave
