// Norm, activation, conversion and multiply-add against the reference; and the choice of a table.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "moe/kernels/kernels_testing.h"

namespace conclave {
namespace {

using testing::BitsOf;
using testing::Describe;
using testing::TablesOfThisCpu;
using testing::Values;

constexpr int64_t kSizes[] = {1, 3, 4, 7, 8, 15, 16, 17, 33, 576, 7168};

TEST(RmsNormTest, IsNearTheReference) {
  for (const Kernels* kernels : TablesOfThisCpu()) {
    for (const int64_t n : kSizes) {
      Values values(static_cast<uint32_t>(n));
      const MatBuffer x = values.Matrix(3, n);
      const MatBuffer weight = values.Matrix(1, n);
      const auto weights = absl::MakeConstSpan(weight.view().Row<float>(0), n);
      MatBuffer got(DType::kF32, 3, n), want(DType::kF32, 3, n);
      kernels->rms_norm(x.view(), weights, 1e-6f, got.view());
      ReferenceKernels(kernels->compute).rms_norm(x.view(), weights, 1e-6f, want.view());
      for (int64_t i = 0; i < 3 * n; ++i) {
        const float expected = want.view().Row<float>(0)[i];
        ASSERT_NEAR(got.view().Row<float>(0)[i], expected, 2e-6 * std::abs(expected)) << Describe(*kernels) << " " << n;
      }
    }
  }
}

TEST(RmsNormTest, WorksInPlaceAndSurvivesZeros) {
  for (const Kernels* kernels : TablesOfThisCpu()) {
    MatBuffer x(DType::kF32, 1, 19);
    const std::vector<float> weight(19, 2.0f);
    kernels->rms_norm(x.view(), weight, 1e-6f, x.view());
    for (int i = 0; i < 19; ++i) EXPECT_EQ(x.view().Row<float>(0)[i], 0.0f) << Describe(*kernels);
  }
}

TEST(SiluMulTest, IsNearTheReferenceOverTheWholeRange) {
  for (const Kernels* kernels : TablesOfThisCpu()) {
    constexpr int64_t kCount = 20011;
    MatBuffer gate(DType::kF32, 1, kCount), up(DType::kF32, 1, kCount);
    for (int64_t i = 0; i < kCount; ++i) {
      gate.view().Row<float>(0)[i] = -90.0f + 180.0f * static_cast<float>(i) / kCount;
      up.view().Row<float>(0)[i] = i % 2 ? 1.0f : -3.0f;
    }
    MatBuffer want(DType::kF32, 1, kCount);
    ReferenceKernels(kernels->compute).silu_mul(gate.view(), up.view(), want.view());
    kernels->silu_mul(gate.view(), up.view(), gate.view());  // in place
    for (int64_t i = 0; i < kCount; ++i) {
      const float expected = want.view().Row<float>(0)[i];
      // Below exp's clamp the result is smaller than any bfloat16 keeps beside a one.
      ASSERT_NEAR(gate.view().Row<float>(0)[i], expected, 4e-7 * std::abs(expected) + 2e-35) << Describe(*kernels);
    }
  }
}

TEST(SiluMulTest, PropagatesNaNAndDoesNotDependOnThePlace) {
  for (const Kernels* kernels : TablesOfThisCpu()) {
    for (int64_t n = 1; n < 40; ++n) {
      MatBuffer gate(DType::kF32, 1, n), up(DType::kF32, 1, n), out(DType::kF32, 1, n);
      for (int64_t i = 0; i < n; ++i) {
        gate.view().Row<float>(0)[i] = 0.37f;
        up.view().Row<float>(0)[i] = 1.91f;
      }
      gate.view().Row<float>(0)[n / 2] = std::nanf("");
      kernels->silu_mul(gate.view(), up.view(), out.view());
      for (int64_t i = 0; i < n; ++i) {
        const float value = out.view().Row<float>(0)[i];
        ASSERT_EQ(std::isnan(value), i == n / 2) << Describe(*kernels);
        if (i == n / 2 || n == 1) continue;
        ASSERT_EQ(BitsOf(value), BitsOf(out.view().Row<float>(0)[0])) << Describe(*kernels);
      }
    }
  }
}

TEST(ConvertTest, RoundsToNearestEvenLikeTheScalarConversion) {
  for (const Kernels* kernels : TablesOfThisCpu()) {
    for (const int64_t n : {1, 15, 16, 31, 1000}) {
      Values values(static_cast<uint32_t>(n));
      MatBuffer x(DType::kF32, 1, n), halves(DType::kBF16, 1, n), back(DType::kF32, 1, n);
      for (int64_t i = 0; i < n; ++i) {
        // Every exponent but the subnormals', which the dot instruction's table flushes; ties and near ties often.
        const uint32_t bits = (values.Bits() & 0x807fffffu) | (1 + values.Bits() % 253) << 23;
        const uint32_t tie = i % 3 == 0 ? (bits & 0xffff0000u) | 0x8000u : bits;
        std::memcpy(&x.view().Row<float>(0)[i], &tie, sizeof(tie));
      }
      if (n > 3) x.view().Row<float>(0)[1] = std::numeric_limits<float>::infinity();
      if (n > 3) x.view().Row<float>(0)[2] = -std::nanf("");
      kernels->convert(x.view(), halves.view());
      kernels->convert(halves.view(), back.view());
      for (int64_t i = 0; i < n; ++i) {
        const float value = x.view().Row<float>(0)[i];
        if (std::isnan(value)) {
          ASSERT_TRUE(std::isnan(back.view().Row<float>(0)[i])) << Describe(*kernels);
          continue;
        }
        ASSERT_EQ(halves.view().Row<uint16_t>(0)[i], FloatToBf16(value)) << Describe(*kernels) << " " << value;
        ASSERT_EQ(back.view().Row<float>(0)[i], Bf16ToFloat(FloatToBf16(value)));
      }
      kernels->convert(x.view(), back.view());
      EXPECT_EQ(std::memcmp(x.view().data, back.view().data, x.bytes()), 0) << "float32 to float32 copies";
    }
  }
}

TEST(AxpyTest, AddsScaledRows) {
  for (const Kernels* kernels : TablesOfThisCpu()) {
    for (const int64_t n : kSizes) {
      Values values(static_cast<uint32_t>(n));
      const MatBuffer row = values.Matrix(1, n);
      MatBuffer halves(DType::kBF16, 1, n);
      kernels->convert(row.view(), halves.view());
      for (const ConstMatView view : {ConstMatView(row.view()), ConstMatView(halves.view())}) {
        MatBuffer got = values.Matrix(1, n);
        MatBuffer want(DType::kF32, 1, n);
        kernels->convert(got.view(), want.view());
        kernels->axpy(0.7f, view.data, view.dtype, n, got.view().Row<float>(0));
        ReferenceKernels(kernels->compute).axpy(0.7f, view.data, view.dtype, n, want.view().Row<float>(0));
        for (int64_t i = 0; i < n; ++i) {
          ASSERT_NEAR(got.view().Row<float>(0)[i], want.view().Row<float>(0)[i], 1e-6) << Describe(*kernels);
        }
      }
    }
  }
}

TEST(CpuKernelsTest, TheScalarTableRunsEverywhere) {
  for (const Compute compute : {Compute::kF32, Compute::kBF16}) {
    const auto table = CpuKernels(compute, "scalar");
    ASSERT_TRUE(table.ok()) << table.status();
    EXPECT_EQ((*table)->isa, "scalar");
    EXPECT_EQ((*table)->compute, compute);
  }
}

TEST(CpuKernelsTest, ChoosesTheFastestThatRuns) {
  for (const Compute compute : {Compute::kF32, Compute::kBF16}) {
    const auto chosen = CpuKernels(compute, "");
    ASSERT_TRUE(chosen.ok()) << chosen.status();
    EXPECT_EQ((*chosen)->compute, compute);
    for (const Kernels* table : TablesOfThisCpu()) {
      if (table->compute != compute) continue;
      EXPECT_EQ((*chosen)->isa, table->isa) << "tables are listed fastest first";
      break;
    }
  }
  const absl::string_view isa = (*CpuKernels(Compute::kBF16, ""))->isa;
  EXPECT_EQ(isa == "avx512-bf16" || isa == "amx", CpuHasBf16());
}

TEST(CpuKernelsTest, RefusesWhatItDoesNotKnowOrHave) {
  EXPECT_EQ(CpuKernels(Compute::kF32, "sse9").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(CpuKernels(Compute::kF32, "avx512-bf16").status().code(), absl::StatusCode::kInvalidArgument);
  for (const char* isa : {"avx2", "avx512"}) {
    const auto table = CpuKernels(Compute::kF32, isa);
    if (!table.ok()) {
      EXPECT_EQ(table.status().code(), absl::StatusCode::kFailedPrecondition) << table.status();
    } else {
      EXPECT_EQ((*table)->isa, isa);
    }
  }
}

}  // namespace
}  // namespace conclave
