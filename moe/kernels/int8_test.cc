// Compute::kInt8: products of integers have the reference's bits in every instruction set, for any number of rows.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "moe/kernels/integers_testing.h"
#include "moe/kernels/kernels_testing.h"

namespace conclave {
namespace {

using testing::BitsOf;
using testing::Describe;
using testing::InIntegers;
using testing::TablesOfThisCpu;
using testing::TestIntegers;
using testing::TestPackedRows;
using testing::Values;

struct Format {
  WeightCode code;
  int group_cols;  // 0: one scale a row
  DType scales;
};
constexpr Format kFormats[] = {
    {WeightCode::kInt8, 0, DType::kBF16},  {WeightCode::kInt8, 32, DType::kF32},  {WeightCode::kInt8, 128, DType::kF32},
    {WeightCode::kInt4, 32, DType::kBF16}, {WeightCode::kInt4, 128, DType::kF32}, {WeightCode::kInt4, 0, DType::kBF16},
};

std::vector<const Kernels*> IntegerTables() {
  std::vector<const Kernels*> tables;
  for (const Kernels* kernels : TablesOfThisCpu()) {
    if (InIntegers(*kernels)) tables.push_back(kernels);
  }
  return tables;
}

// Rows of very different sizes, and groups of one row too.
MatBuffer Rows(Values& values, int64_t rows, int64_t depth) {
  MatBuffer x = values.Matrix(rows, depth);
  for (int64_t i = 0; i < rows * depth; ++i) x.view().Row<float>(0)[i] *= std::ldexp(1.0f, i / 32 % 40 - 20);
  return x;
}

void ExpectSameBits(ConstMatView got, ConstMatView want, const std::string& what) {
  for (int64_t m = 0; m < want.rows; ++m) {
    for (int64_t n = 0; n < want.cols; ++n) {
      ASSERT_EQ(BitsOf(got.Row<float>(m)[n]), BitsOf(want.Row<float>(m)[n])) << what << " at " << m << "," << n;
    }
  }
}

TEST(Int8Test, EveryInstructionSetHasTheBitsOfTheReference) {
  const std::vector<const Kernels*> tables = IntegerTables();
  ASSERT_FALSE(tables.empty());
  for (const Format& format : kFormats) {
    for (const int64_t depth : {8, 32, 40, 96, 264, 1056, 2088}) {
      Values values(static_cast<uint32_t>(depth));
      const MatBuffer x = Rows(values, 300, depth);
      const TestIntegers w(values, format.code, 37, depth, format.group_cols, format.scales);
      MatBuffer want(DType::kF32, 40, 37);
      ReferenceKernels(Compute::kInt8).linear(x.view().Rows(260, 40), w.view(), 0, 37, want.view());
      for (const Kernels* kernels : tables) {
        for (const int64_t rows : {1, 2, 3, 8, 15, 16, 17, 31, 40}) {
          MatBuffer got(DType::kF32, rows, 37);
          kernels->linear(x.view().Rows(300 - rows, rows), w.view(), 0, 20, got.view());
          kernels->linear(x.view().Rows(300 - rows, rows), w.view(), 20, 37, got.view());
          ExpectSameBits(got.view(), want.view().Rows(40 - rows, rows),
                         Describe(*kernels) + " group " + std::to_string(format.group_cols) + " depth " +
                             std::to_string(depth) + " rows " + std::to_string(rows));
        }
        MatBuffer all(DType::kF32, 300, 37);
        kernels->linear(x.view(), w.view(), 0, 37, all.view());
        ExpectSameBits(all.view().Rows(260, 40), want.view(), Describe(*kernels) + " 300 rows");
      }
    }
  }
}

TEST(Int8Test, RowsGoThroughTwoProductsAlikeInEveryInstructionSet) {
  for (const Kernels* kernels : IntegerTables()) {
    Values values(3);
    const MatBuffer x = values.Matrix(21, 160);
    const TestIntegers gate(values, WeightCode::kInt8, 288, 160, 0, DType::kBF16);
    const TestIntegers up(values, WeightCode::kInt8, 288, 160, 0, DType::kBF16);
    const TestIntegers down(values, WeightCode::kInt4, 33, 288, 32, DType::kBF16);
    const auto run = [&](int64_t rows, int64_t columns) {
      const TestPackedRows packed(*kernels, rows, 160), out(*kernels, rows, 288);
      MatBuffer gate_scratch(DType::kF32, rows, 288), up_scratch(DType::kF32, rows, 288), y(DType::kF32, rows, 33);
      kernels->pack(x.view(), nullptr, 0, rows, packed.rows());
      for (int64_t n = 0; n < 288; n += columns) {
        kernels->swiglu_packed(packed.rows(), gate.view(), up.view(), n, std::min<int64_t>(n + columns, 288),
                               {gate_scratch.view(), up_scratch.view()}, out.rows());
      }
      kernels->linear_packed(out.rows(), down.view(), 0, 33, y.view());
      return y;
    };
    const MatBuffer all = run(21, 384);
    ExpectSameBits(run(5, 128).view(), all.view().Rows(0, 5), Describe(*kernels));
  }
}

TEST(Int8Test, NaNAndInfinityReachTheirRowOnlyAndTinyValuesAreZero) {
  for (const Kernels* kernels : IntegerTables()) {
    Values values(4);
    MatBuffer x = values.Matrix(4, 64);
    x.view().Row<float>(1)[40] = std::nanf("");
    x.view().Row<float>(2)[3] = std::numeric_limits<float>::infinity();
    for (int i = 0; i < 64; ++i) x.view().Row<float>(3)[i] = 1e-38f;
    const TestIntegers w(values, WeightCode::kInt8, 9, 64, 0, DType::kF32);
    MatBuffer y(DType::kF32, 4, 9);
    kernels->linear(x.view(), w.view(), 0, 9, y.view());
    for (int n = 0; n < 9; ++n) {
      EXPECT_TRUE(std::isfinite(y.view().Row<float>(0)[n])) << Describe(*kernels);
      EXPECT_TRUE(std::isnan(y.view().Row<float>(1)[n])) << Describe(*kernels);
      EXPECT_TRUE(std::isnan(y.view().Row<float>(2)[n])) << Describe(*kernels);
      EXPECT_EQ(y.view().Row<float>(3)[n], 0.0f) << Describe(*kernels);
    }
  }
}

}  // namespace
}  // namespace conclave
