// Kernels::linear and linear_transposed against the reference, on shapes that leave a remainder everywhere.
#include <gtest/gtest.h>

#include <cmath>

#include "moe/kernels/kernels_testing.h"

namespace conclave {
namespace {

using testing::Describe;
using testing::TablesOfThisCpu;
using testing::TestWeight;
using testing::Values;

struct Format {
  DType dtype;
  int block_rows;
  int block_cols;
  DType scales;
};
constexpr Format kFormats[] = {
    {DType::kF32, 0, 0, DType::kF32},        {DType::kBF16, 0, 0, DType::kF32},
    {DType::kF16, 0, 0, DType::kF32},        {DType::kF8E4M3, 0, 0, DType::kF32},
    {DType::kF8E4M3, 128, 128, DType::kF32}, {DType::kF8E4M3, 128, 128, DType::kF8E8M0},
    {DType::kF8E4M3, 3, 37, DType::kF32},    {DType::kF8E4M3, 1, 1536, DType::kF32},
};

// |x| · |w|, by which rounding errors are measured.
double SumOfMagnitudes(ConstMatView x, int64_t m, const WeightView& w, int64_t n) {
  double sum = 0;
  for (int64_t k = 0; k < w.cols(); ++k) {
    sum += std::abs(x.Row<float>(m)[k] * static_cast<double>(StoredValue(w, n, k)) * ScaleOf(w, n, k));
  }
  return sum;
}

// A float32 sum of K products in lanes: K / 4 additions one after the other at the most, then the tree, and two
// roundings a block.
double Tolerance(int64_t depth, const Format& format) {
  const double blocks = format.block_cols ? 2.0 * depth / format.block_cols : 0;
  return 0x1p-24 * (static_cast<double>(depth) / 2 + 8 + blocks);
}

void ExpectLinearNearReference(const Kernels& kernels, const Format& format, int64_t rows, int64_t columns,
                               int64_t depth) {
  Values values(static_cast<uint32_t>(rows * 7919 + columns * 104729 + depth));
  const MatBuffer x = values.Matrix(rows, depth);
  const TestWeight weight(values, format.dtype, columns, depth, 0, format.block_rows, format.block_cols, format.scales);
  const WeightView& w = weight.view();
  MatBuffer got(DType::kF32, rows, columns), want(DType::kF32, rows, columns);
  kernels.linear(x.view(), w, 0, columns, got.view());
  ReferenceKernels(kernels.compute).linear(x.view(), w, 0, columns, want.view());
  for (int64_t m = 0; m < rows; ++m) {
    for (int64_t n = 0; n < columns; ++n) {
      const double error = std::abs(got.view().Row<float>(m)[n] - static_cast<double>(want.view().Row<float>(m)[n]));
      ASSERT_LE(error, Tolerance(depth, format) * 1.01 * SumOfMagnitudes(x.view(), m, w, n))
          << Describe(kernels) << " " << Name(format.dtype) << " blocks " << format.block_rows << "x"
          << format.block_cols << " " << rows << "x" << columns << "x" << depth << " at " << m << "," << n;
    }
  }
}

TEST(LinearTest, IsNearTheReferenceForEveryDepth) {
  for (const Kernels* kernels : TablesOfThisCpu()) {
    for (const Format& format : kFormats) {
      for (const int64_t depth : {1, 2, 7, 31, 32, 33, 63, 65, 127, 128, 129, 576, 1000, 2048, 2500}) {
        ExpectLinearNearReference(*kernels, format, 2, 5, depth);
      }
      ExpectLinearNearReference(*kernels, format, 60, 3, 4200);  // several panels, blocks of rows
    }
  }
}

TEST(LinearTest, IsNearTheReferenceForEveryCountOfRowsAndColumns) {
  for (const Kernels* kernels : TablesOfThisCpu()) {
    for (const Format& format : kFormats) {
      for (const int64_t rows : {0, 1, 3, 7, 13, 49}) {
        for (const int64_t columns : {1, 3, 4, 9}) ExpectLinearNearReference(*kernels, format, rows, columns, 150);
      }
      ExpectLinearNearReference(*kernels, format, 7, 135, 70);
    }
  }
}

TEST(LinearTest, TakesBf16Rows) {
  for (const Kernels* kernels : TablesOfThisCpu()) {
    for (const Format& format : kFormats) {
      Values values(11);
      const MatBuffer x = values.Matrix(9, 333);
      MatBuffer halves(DType::kBF16, 9, 333), rounded(DType::kF32, 9, 333);
      kernels->convert(x.view(), halves.view());
      kernels->convert(halves.view(), rounded.view());
      const TestWeight w(values, format.dtype, 6, 333, 0, format.block_rows, format.block_cols, format.scales);
      MatBuffer from_halves(DType::kF32, 9, 6), from_floats(DType::kF32, 9, 6);
      kernels->linear(halves.view(), w.view(), 0, 6, from_halves.view());
      kernels->linear(rounded.view(), w.view(), 0, 6, from_floats.view());
      EXPECT_EQ(std::memcmp(from_halves.view().data, from_floats.view().data, from_halves.bytes()), 0)
          << Describe(*kernels) << " " << Name(format.dtype);
    }
  }
}

// e4m3 has 256 codes, each a row's only one: one of a row is multiplied by one and the others by zero, so that the
// products are the decoded values themselves.
TEST(LinearTest, DecodesEveryF8CodeExactly) {
  for (const Kernels* kernels : TablesOfThisCpu()) {
    for (const int64_t rows : {1, 4, 40}) {  // read directly, and decoded once for many rows
      const int64_t depth = rows == 4 ? 96 : 128;
      Values values(1);
      TestWeight weight(values, DType::kF8E4M3, 256, depth);
      for (int64_t n = 0; n < 256; ++n) std::memset(weight.bytes() + n * depth, static_cast<int>(n), depth);
      MatBuffer x(DType::kF32, rows, depth), y(DType::kF32, rows, 256);
      std::memset(x.view().data, 0, x.bytes());
      for (int64_t m = 0; m < rows; ++m) x.view().Row<float>(m)[m * 37 % depth] = 1.0f;
      kernels->linear(x.view(), weight.view(), 0, 256, y.view());
      for (int64_t m = 0; m < rows; ++m) {
        for (int code = 0; code < 256; ++code) {
          const float want = F8E4M3ToFloat(static_cast<uint8_t>(code));
          const float got = y.view().Row<float>(m)[code];
          ASSERT_TRUE(std::isnan(want) ? std::isnan(got) : got == want)
              << Describe(*kernels) << " code " << code << ": " << got << " for " << want;
        }
      }
    }
  }
}

TEST(LinearTest, NaNReachesItsColumnOrRowAndNoOther) {
  for (const Kernels* kernels : TablesOfThisCpu()) {
    for (const Format& format : kFormats) {
      Values values(5);
      MatBuffer x = values.Matrix(8, 200);
      TestWeight weight(values, format.dtype, 7, 200, 0, format.block_rows, format.block_cols, format.scales);
      x.view().Row<float>(3)[199] = std::nanf("");
      std::memset(weight.bytes() + (2 * 200 + 131) * SizeOf(format.dtype), 0x7f, SizeOf(format.dtype));
      const bool weight_is_nan = std::isnan(LoadAsFloat(weight.view().matrix.RowBytes(2), format.dtype, 131));
      MatBuffer y(DType::kF32, 8, 7);
      kernels->linear(x.view(), weight.view(), 0, 7, y.view());
      for (int m = 0; m < 8; ++m) {
        for (int n = 0; n < 7; ++n) {
          if (format.dtype == DType::kF32 && n == 2) continue;  // 0x7f7f7f7f is huge, not NaN
          ASSERT_EQ(std::isnan(y.view().Row<float>(m)[n]), m == 3 || (n == 2 && weight_is_nan))
              << Describe(*kernels) << " " << Name(format.dtype) << " at " << m << "," << n;
        }
      }
    }
  }
}

TEST(LinearTest, NaNScaleReachesItsBlock) {
  for (const Kernels* kernels : TablesOfThisCpu()) {
    Values values(6);
    const MatBuffer x = values.Matrix(2, 256);
    const TestWeight weight(values, DType::kF8E4M3, 8, 256, 0, 4, 128, DType::kF8E8M0);
    static_cast<uint8_t*>(const_cast<void*>(weight.view().scales.data))[3] = 0xff;
    MatBuffer y(DType::kF32, 2, 8);
    kernels->linear(x.view(), weight.view(), 0, 8, y.view());
    for (int n = 0; n < 8; ++n) EXPECT_EQ(std::isnan(y.view().Row<float>(1)[n]), n >= 4) << Describe(*kernels);
  }
}

TEST(LinearTransposedTest, IsNearTheReference) {
  for (const Kernels* kernels : TablesOfThisCpu()) {
    for (const Format& format : kFormats) {
      for (const int64_t rows : {1, 2, 7}) {
        for (const int64_t depth : {1, 5, 515}) {            // rows of W
          for (const int64_t columns : {1, 15, 130, 333}) {  // columns of W
            Values values(static_cast<uint32_t>(rows + depth * 31 + columns * 7));
            const MatBuffer x = values.Matrix(rows, depth);
            const TestWeight w(values, format.dtype, depth, columns, 0, format.block_rows, format.block_cols,
                               format.scales);
            MatBuffer got(DType::kF32, rows, columns), want(DType::kF32, rows, columns);
            kernels->linear_transposed(x.view(), w.view(), 0, columns, got.view());
            ReferenceKernels(kernels->compute).linear_transposed(x.view(), w.view(), 0, columns, want.view());
            double largest = 0;  // of the products, by which errors are measured
            for (int64_t i = 0; i < rows * depth; ++i)
              largest = std::fmax(largest, std::abs(x.view().Row<float>(0)[i]));
            const double scale = format.block_rows == 0 ? 4.5 : format.scales == DType::kF32 ? 0.25 : 36.0;
            const double bound = 0x1p-24 * (depth + 2) * largest * scale * static_cast<double>(depth);
            for (int64_t i = 0; i < rows * columns; ++i) {
              ASSERT_NEAR(got.view().Row<float>(0)[i], want.view().Row<float>(0)[i], bound)
                  << Describe(*kernels) << " " << Name(format.dtype) << " " << rows << "x" << depth << "x" << columns;
            }
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace conclave
