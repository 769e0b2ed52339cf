// Packed rows: products of them have the very bits of plain ones, however they were packed, and the fused SwiGLU is
// near the reference and as independent of neighbours as everything else.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "moe/kernels/kernels_testing.h"

namespace conclave {
namespace {

using testing::BitsOf;
using testing::Describe;
using testing::RoundsToBf16;
using testing::TablesOfThisCpu;
using testing::TestPackedRows;
using testing::TestWeight;
using testing::Values;

constexpr DType kDTypes[] = {DType::kF32, DType::kBF16, DType::kF16, DType::kF8E4M3};

TestWeight MakeWeight(Values& values, DType dtype, int64_t rows, int64_t cols) {
  const int block = dtype == DType::kF8E4M3 ? 128 : 0;
  return TestWeight(values, dtype, rows, cols, 0, block, block);
}

// Multiplies by weights that pick one column each: what products see of the rows.
MatBuffer Unpacked(const Kernels& kernels, const PackedRows& rows) {
  MatBuffer identity(DType::kF32, rows.cols, rows.cols), out(DType::kF32, rows.rows, rows.cols);
  for (int64_t i = 0; i < rows.cols; ++i) identity.view().Row<float>(i)[i] = 1.0f;
  WeightView w;
  w.matrix = identity.view();
  kernels.linear_packed(rows, w, 0, rows.cols, out.view());
  return out;
}

void ExpectSameBits(ConstMatView got, ConstMatView want, const std::string& what) {
  for (int64_t m = 0; m < want.rows; ++m) {
    for (int64_t n = 0; n < want.cols; ++n) {
      ASSERT_EQ(BitsOf(got.Row<float>(m)[n]), BitsOf(want.Row<float>(m)[n])) << what << " at " << m << "," << n;
    }
  }
}

TEST(PackedTest, ProductsHaveTheBitsOfPlainOnes) {
  for (const Kernels* kernels : TablesOfThisCpu()) {
    for (const DType dtype : kDTypes) {
      for (const int64_t rows : {1, 2, 3, 8, 15, 16, 17, 33, 300}) {
        for (const int64_t depth : {31, 64, 1100}) {
          Values values(static_cast<uint32_t>(rows + depth));
          const MatBuffer x = values.Matrix(rows, depth);
          const TestWeight w = MakeWeight(values, dtype, 37, depth);
          const TestPackedRows packed(*kernels, rows, depth);
          // In several calls, as threads do.
          for (int64_t begin = 0; begin < rows; begin += kPackedRowsMultiple) {
            kernels->pack(x.view(), nullptr, begin, std::min(rows, begin + kPackedRowsMultiple), packed.rows());
          }
          MatBuffer got(DType::kF32, rows, 37), want(DType::kF32, rows, 37);
          kernels->linear(x.view(), w.view(), 0, 37, want.view());
          kernels->linear_packed(packed.rows(), w.view(), 0, 20, got.view());
          kernels->linear_packed(packed.rows(), w.view(), 20, 37, got.view());
          ExpectSameBits(got.view(), want.view(), Describe(*kernels) + " " + std::string(Name(dtype)));
        }
      }
    }
  }
}

TEST(PackedTest, GathersRowsByIndex) {
  for (const Kernels* kernels : TablesOfThisCpu()) {
    Values values(7);
    const MatBuffer x = values.Matrix(9, 70);
    std::vector<int32_t> indexes;
    for (int i = 0; i < 35; ++i) indexes.push_back(i * 4 % 9);
    const TestPackedRows packed(*kernels, 35, 70), all(*kernels, 9, 70);
    kernels->pack(x.view(), indexes.data(), 0, 35, packed.rows());
    kernels->pack(x.view(), nullptr, 0, 9, all.rows());
    const MatBuffer got = Unpacked(*kernels, packed.rows()), want = Unpacked(*kernels, all.rows());
    for (int i = 0; i < 35; ++i) {
      ExpectSameBits(got.view().Rows(i, 1), want.view().Rows(indexes[i], 1), Describe(*kernels));
    }
  }
}

TEST(PackedTest, ThreePartsKeepAllBits) {
  for (const Kernels* kernels : TablesOfThisCpu()) {
    Values values(8);
    const MatBuffer x = values.Matrix(5, 66);
    const TestPackedRows packed(*kernels, 5, 66);
    kernels->pack(x.view(), nullptr, 0, 5, packed.rows());
    const MatBuffer got = Unpacked(*kernels, packed.rows());
    const double lost = RoundsToBf16(*kernels) ? 0x1p-8 : 0;
    for (int i = 0; i < 5 * 66; ++i) {
      const float value = x.view().Row<float>(0)[i];
      EXPECT_NEAR(got.view().Row<float>(0)[i], value, std::abs(value) * lost) << Describe(*kernels);
    }
  }
}

class SwigluCase {
 public:
  SwigluCase(const Kernels& kernels, DType dtype, int64_t rows, int64_t depth, int64_t width)
      : kernels_(kernels),
        values_(static_cast<uint32_t>(rows * 31 + depth + width)),
        x_(values_.Matrix(rows, depth)),
        gate_(MakeWeight(values_, dtype, width, depth)),
        up_(MakeWeight(values_, dtype, width, depth)) {
    for (int64_t i = 0; i < rows * depth; ++i) x_.view().Row<float>(0)[i] *= 0.1f;
  }

  // Rows [begin, end) of x through both products, `columns` columns of the result a call.
  MatBuffer Run(const Kernels& kernels, int64_t begin, int64_t end, int64_t columns) const {
    const int64_t rows = end - begin, width = gate_.view().rows();
    const TestPackedRows packed(kernels, rows, x_.view().cols), out(kernels, rows, width);
    MatBuffer gate(DType::kF32, rows, width), up(DType::kF32, rows, width);
    kernels.pack(x_.view().Rows(begin, rows), nullptr, 0, rows, packed.rows());
    columns = std::max(columns, kernels.columns_multiple);
    for (int64_t n = 0; n < width; n += columns) {
      kernels.swiglu_packed(packed.rows(), gate_.view(), up_.view(), n, std::min(width, n + columns),
                            {gate.view(), up.view()}, out.rows());
    }
    return Unpacked(kernels, out.rows());
  }

  const Kernels& kernels_;
  Values values_;
  MatBuffer x_;
  TestWeight gate_, up_;
};

TEST(SwigluTest, IsNearTheReference) {
  for (const Kernels* kernels : TablesOfThisCpu()) {
    for (const DType dtype : kDTypes) {
      for (const int64_t width : {32, 47, 96}) {
        const SwigluCase c(*kernels, dtype, 19, 130, width);
        const MatBuffer got = c.Run(*kernels, 0, 19, 64);
        const MatBuffer want = c.Run(ReferenceKernels(kernels->compute), 0, 19, 64);
        const double rounding = RoundsToBf16(*kernels) ? 0x1p-7 : 0x1p-15;
        for (int64_t i = 0; i < 19 * width; ++i) {
          const float expected = want.view().Row<float>(0)[i];
          ASSERT_NEAR(got.view().Row<float>(0)[i], expected, std::abs(expected) * rounding + 1e-5)
              << Describe(*kernels) << " " << Name(dtype) << " width " << width << " at " << i;
        }
      }
    }
  }
}

TEST(SwigluTest, ARowDoesNotDependOnItsNeighboursOrOnHowColumnsAreSplit) {
  for (const Kernels* kernels : TablesOfThisCpu()) {
    for (const DType dtype : kDTypes) {
      const SwigluCase c(*kernels, dtype, 40, 200, 143);
      const MatBuffer whole = c.Run(*kernels, 0, 40, 256);
      for (const auto& [begin, end] : std::vector<std::pair<int, int>>{{0, 1}, {39, 40}, {3, 20}, {7, 40}}) {
        ExpectSameBits(c.Run(*kernels, begin, end, 32).view(), whole.view().Rows(begin, end - begin),
                       Describe(*kernels) + " " + std::string(Name(dtype)));
      }
    }
  }
}

}  // namespace
}  // namespace conclave
