// The rule that promise 1 stands on: a row's result depends on that row and the weights alone. Bit for bit, for every
// table, dtype, count of rows, split of columns and alignment.
#include <gtest/gtest.h>

#include <algorithm>
#include <string>

#include "moe/base/thread_pool.h"
#include "moe/kernels/kernels_testing.h"
#include "moe/kernels/parallel.h"

namespace conclave {
namespace {

using testing::BitsOf;
using testing::Describe;
using testing::TablesOfThisCpu;
using testing::TestWeight;
using testing::Values;

struct Case {
  DType dtype;
  int block_rows;
  int block_cols;
  int64_t columns;
  int64_t depth;
};
constexpr Case kCases[] = {
    {DType::kF32, 0, 0, 7, 333},        {DType::kBF16, 0, 0, 7, 333},       {DType::kF16, 0, 0, 5, 100},
    {DType::kF8E4M3, 0, 0, 7, 333},     {DType::kF8E4M3, 128, 128, 6, 300}, {DType::kF8E4M3, 2, 40, 9, 333},
    {DType::kBF16, 0, 0, 69, 65},       {DType::kBF16, 0, 0, 3, 4333},      {DType::kF8E4M3, 128, 128, 3, 4300},
    {DType::kF8E4M3, 1, 1500, 3, 4333}, {DType::kF32, 0, 0, 3, 2333},       {DType::kF8E4M3, 128, 128, 71, 700},
};

// Row by row: the result that every other way of calling must give.
MatBuffer OneRowAtATime(const Kernels& kernels, ConstMatView x, const WeightView& w) {
  MatBuffer y(DType::kF32, x.rows, w.rows());
  for (int64_t m = 0; m < x.rows; ++m) kernels.linear(x.Rows(m, 1), w, 0, w.rows(), y.view().Rows(m, 1));
  return y;
}

::testing::AssertionResult SameBits(ConstMatView a, ConstMatView b) {
  for (int64_t m = 0; m < a.rows; ++m) {
    for (int64_t n = 0; n < a.cols; ++n) {
      const float left = a.Row<float>(m)[n], right = b.Row<float>(m)[n];
      if (BitsOf(left) != BitsOf(right)) {
        return ::testing::AssertionFailure() << "at " << m << "," << n << ": " << left << " and " << right;
      }
    }
  }
  return ::testing::AssertionSuccess();
}

std::string Explain(const Kernels& kernels, const Case& c) {
  return Describe(kernels) + " " + std::string(Name(c.dtype)) + " blocks " + std::to_string(c.block_cols) + " N " +
         std::to_string(c.columns) + " K " + std::to_string(c.depth);
}

TEST(LinearBitsTest, RowsDoNotDependOnTheirNumber) {
  for (const Kernels* kernels : TablesOfThisCpu()) {
    for (const Case& c : kCases) {
      Values values(3);
      const MatBuffer x = values.Matrix(512, c.depth);
      const TestWeight weight(values, c.dtype, c.columns, c.depth, 0, c.block_rows, c.block_cols);
      const MatBuffer want = OneRowAtATime(*kernels, x.view(), weight.view());
      const bool big = c.depth * c.columns > 5000;
      for (int64_t rows = 1; rows <= 512; rows += rows < 64 ? (big ? 5 : 1) : (big ? 223 : 63)) {
        MatBuffer got(DType::kF32, rows, c.columns);
        kernels->linear(x.view().Rows(512 - rows, rows), weight.view(), 0, c.columns, got.view());
        ASSERT_TRUE(SameBits(got.view(), want.view().Rows(512 - rows, rows)))
            << Explain(*kernels, c) << " with " << rows << " rows";
      }
      MatBuffer got(DType::kF32, 512, c.columns);
      kernels->linear(x.view(), weight.view(), 0, c.columns, got.view());
      ASSERT_TRUE(SameBits(got.view(), want.view())) << Explain(*kernels, c);
    }
  }
}

TEST(LinearBitsTest, ColumnsDoNotDependOnHowTheyAreSplit) {
  for (const Kernels* kernels : TablesOfThisCpu()) {
    for (const Case& c : kCases) {
      for (const int64_t rows : {1, 3, 6, 50}) {
        Values values(4);
        const MatBuffer x = values.Matrix(rows, c.depth);
        const TestWeight weight(values, c.dtype, c.columns, c.depth, 0, c.block_rows, c.block_cols);
        MatBuffer whole(DType::kF32, rows, c.columns), split(DType::kF32, rows, c.columns);
        kernels->linear(x.view(), weight.view(), 0, c.columns, whole.view());
        for (int64_t n = 0; n < c.columns;) {
          const int64_t end = std::min<int64_t>(c.columns, n + 1 + values.Bits() % 6);
          kernels->linear(x.view(), weight.view(), n, end, split.view());
          n = end;
        }
        ASSERT_TRUE(SameBits(split.view(), whole.view())) << Explain(*kernels, c) << " rows " << rows;
      }
    }
  }
}

TEST(LinearBitsTest, WritesItsColumnsOnly) {
  for (const Kernels* kernels : TablesOfThisCpu()) {
    Values values(8);
    const MatBuffer x = values.Matrix(5, 64);
    const TestWeight weight(values, DType::kBF16, 11, 64);
    MatBuffer y(DType::kF32, 5, 11);
    for (int i = 0; i < 55; ++i) y.view().Row<float>(0)[i] = 77.0f;
    kernels->linear(x.view(), weight.view(), 3, 8, y.view());
    for (int m = 0; m < 5; ++m) {
      for (int n = 0; n < 11; ++n) {
        EXPECT_EQ(y.view().Row<float>(m)[n] != 77.0f, n >= 3 && n < 8) << Describe(*kernels) << " " << n;
      }
    }
  }
}

// Safetensors promises no alignment: a header of odd length puts float32 weights at an odd address.
TEST(LinearBitsTest, AlignmentAndStridesDoNotMatter) {
  for (const Kernels* kernels : TablesOfThisCpu()) {
    for (const Case& c : kCases) {
      for (const int64_t rows : {1, 9}) {
        Values values(9), same_values(9);
        const MatBuffer x = values.Matrix(rows, c.depth);
        const TestWeight aligned(values, c.dtype, c.columns, c.depth, 0, c.block_rows, c.block_cols);
        same_values.Matrix(rows, c.depth);
        const TestWeight shifted(same_values, c.dtype, c.columns, c.depth, c.dtype == DType::kBF16 ? 2 : 1,
                                 c.block_rows, c.block_cols);
        MatBuffer wide(DType::kF32, rows, c.depth + 3), wide_y(DType::kF32, rows, c.columns + 5);
        for (int64_t m = 0; m < rows; ++m) {
          std::memcpy(wide.view().Row<float>(m) + 3, x.view().Row<float>(m), c.depth * sizeof(float));
        }
        MatBuffer want(DType::kF32, rows, c.columns);
        const MatView got = wide_y.view().Cols(2, c.columns);
        kernels->linear(x.view(), aligned.view(), 0, c.columns, want.view());
        kernels->linear(wide.view().Cols(3, c.depth), shifted.view(), 0, c.columns, got);
        ASSERT_TRUE(SameBits(got, want.view())) << Explain(*kernels, c) << " rows " << rows;
      }
    }
  }
}

TEST(LinearBitsTest, ThreadsDoNotMatter) {
  ThreadPool alone(1), pool(3);
  for (const Kernels* kernels : TablesOfThisCpu()) {
    for (const int64_t rows : {1, 20}) {
      Values values(10);
      const MatBuffer x = values.Matrix(rows, 512);
      const TestWeight weight(values, DType::kBF16, 1037, 512);
      MatBuffer want(DType::kF32, rows, 1037), got(DType::kF32, rows, 1037);
      ParallelLinear(*kernels, alone, x.view(), weight.view(), want.view());
      ParallelLinear(*kernels, pool, x.view(), weight.view(), got.view());
      ASSERT_TRUE(SameBits(got.view(), want.view())) << Describe(*kernels);
      EXPECT_LT(LinearGrain(rows, weight.view(), 3), 1037) << "the work was meant to be shared";
    }
  }
}

TEST(LinearBitsTest, TransposedProductsDoNotDependOnRowsOrSplits) {
  for (const Kernels* kernels : TablesOfThisCpu()) {
    for (const Case& c : kCases) {
      Values values(12);
      const int64_t depth = 300;
      const MatBuffer x = values.Matrix(13, depth);
      const TestWeight weight(values, c.dtype, depth, c.depth, 1, c.block_rows, c.block_cols);
      MatBuffer whole(DType::kF32, 13, c.depth), split(DType::kF32, 13, c.depth);
      kernels->linear_transposed(x.view(), weight.view(), 0, c.depth, whole.view());
      for (int64_t m = 0; m < 13; ++m) {
        for (int64_t k = 0; k < c.depth;) {
          const int64_t end = std::min<int64_t>(c.depth, k + 1 + values.Bits() % 400);
          kernels->linear_transposed(x.view().Rows(m, 1), weight.view(), k, end, split.view().Rows(m, 1));
          k = end;
        }
      }
      ASSERT_TRUE(SameBits(split.view(), whole.view())) << Explain(*kernels, c);
    }
  }
}

}  // namespace
}  // namespace conclave
