// Packed INT8 and INT4 weights: decoded exactly, near the reference, and as independent of neighbours as all else.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "moe/kernels/integers_testing.h"
#include "moe/kernels/kernels_testing.h"

namespace conclave {
namespace {

using testing::BitsOf;
using testing::Describe;
using testing::InIntegers;
using testing::RoundsToBf16;
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
    {WeightCode::kInt8, 0, DType::kBF16},  {WeightCode::kInt8, 32, DType::kF32},  {WeightCode::kInt4, 32, DType::kBF16},
    {WeightCode::kInt4, 128, DType::kF32}, {WeightCode::kInt4, 0, DType::kBF16}, {WeightCode::kInt4, 24, DType::kBF16},
};

std::string Explain(const Kernels& kernels, const Format& format) {
  return Describe(kernels) + (format.code == WeightCode::kInt8 ? " INT8" : " INT4") + " group " +
         std::to_string(format.group_cols);
}

// The largest error of float32 sums, by the magnitudes added.
double Tolerance(const Kernels& kernels, ConstMatView x, int64_t m, const WeightView& w, int64_t n) {
  double magnitudes = 0;
  for (int64_t k = 0; k < w.cols(); ++k) {
    magnitudes += std::abs(static_cast<double>(x.Row<float>(m)[k]) * StoredValue(w, n, k) * ScaleOf(w, n, k));
  }
  const double rounded_inputs = kernels.compute == Compute::kBF16 ? 1.01 : 1.0;
  return rounded_inputs * magnitudes * 0x1p-24 * (static_cast<double>(w.cols()) + 8);
}

TEST(IntegerWeightsTest, AreNearTheReferenceForEveryDepth) {
  for (const Kernels* kernels : TablesOfThisCpu()) {
    for (const Format& format : kFormats) {
      for (const int64_t depth : {8, 16, 32, 40, 64, 96, 128, 256, 264, 1000, 1056, 2048}) {
        for (const int64_t rows : {1, 2, 5, 19}) {
          Values values(static_cast<uint32_t>(depth + rows));
          const MatBuffer x = values.Matrix(rows, depth);
          const TestIntegers w(values, format.code, 21, depth, format.group_cols, format.scales);
          MatBuffer got(DType::kF32, rows, 21), want(DType::kF32, rows, 21);
          kernels->linear(x.view(), w.view(), 0, 21, got.view());
          ReferenceKernels(kernels->compute).linear(x.view(), w.view(), 0, 21, want.view());
          for (int64_t m = 0; m < rows; ++m) {
            for (int64_t n = 0; n < 21; ++n) {
              ASSERT_NEAR(got.view().Row<float>(m)[n], want.view().Row<float>(m)[n],
                          Tolerance(*kernels, x.view(), m, w.view(), n))
                  << Explain(*kernels, format) << " rows " << rows << " depth " << depth << " at " << m << "," << n;
            }
          }
        }
      }
    }
  }
}

// Each code is multiplied by one, so that the products are the decoded values themselves.
TEST(IntegerWeightsTest, EveryCodeIsDecodedExactly) {
  for (const Kernels* kernels : TablesOfThisCpu()) {
    if (InIntegers(*kernels)) continue;  // rounds x
    for (const WeightCode code : {WeightCode::kInt8, WeightCode::kInt4}) {
      const int codes = code == WeightCode::kInt8 ? 256 : 16;
      for (const int64_t rows : {1, 4, 40}) {  // read directly, and decoded once for many rows
        Values values(1);
        TestIntegers weight(values, code, codes, 96, 32, DType::kF32);
        for (int n = 0; n < codes; ++n) {
          for (int k = 0; k < 96; ++k) weight.Set(n, k, k == n % 96 ? n - codes / 2 : 0);
          for (int group = 0; group < 3; ++group) weight.SetScale(n, group, 0.5f);
        }
        MatBuffer x(DType::kF32, rows, 96), y(DType::kF32, rows, codes);
        for (int64_t i = 0; i < rows * 96; ++i) x.view().Row<float>(0)[i] = 1.0f;
        kernels->linear(x.view(), weight.view(), 0, codes, y.view());
        for (int64_t m = 0; m < rows; ++m) {
          for (int n = 0; n < codes; ++n) {
            ASSERT_EQ(y.view().Row<float>(m)[n], 0.5f * static_cast<float>(n - codes / 2)) << Describe(*kernels);
          }
        }
      }
    }
  }
}

void ExpectSameBits(ConstMatView got, ConstMatView want, const std::string& what) {
  for (int64_t m = 0; m < want.rows; ++m) {
    for (int64_t n = 0; n < want.cols; ++n) {
      ASSERT_EQ(BitsOf(got.Row<float>(m)[n]), BitsOf(want.Row<float>(m)[n])) << what << " at " << m << "," << n;
    }
  }
}

TEST(IntegerWeightsTest, ARowDoesNotDependOnItsNeighboursOrOnHowColumnsAreSplit) {
  for (const Kernels* kernels : TablesOfThisCpu()) {
    for (const Format& format : kFormats) {
      for (const int64_t depth : {320, 1064}) {
        Values values(3);
        const MatBuffer x = values.Matrix(200, depth);
        const TestIntegers w(values, format.code, 37, depth, format.group_cols, format.scales);
        MatBuffer want(DType::kF32, 200, 37);
        for (int64_t m = 0; m < 200; ++m) {
          kernels->linear(x.view().Rows(m, 1), w.view(), 0, 37, want.view().Rows(m, 1));
        }
        for (const int64_t rows : {2, 3, 4, 5, 6, 7, 8, 15, 16, 17, 31, 33, 64, 200}) {
          MatBuffer got(DType::kF32, rows, 37);
          for (int64_t n = 0; n < 37; n += 10) {
            kernels->linear(x.view().Rows(200 - rows, rows), w.view(), n, std::min<int64_t>(37, n + 10), got.view());
          }
          ExpectSameBits(got.view(), want.view().Rows(200 - rows, rows),
                         Explain(*kernels, format) + " rows " + std::to_string(rows));
        }
      }
    }
  }
}

TEST(IntegerWeightsTest, PackedRowsGiveTheSameBits) {
  for (const Kernels* kernels : TablesOfThisCpu()) {
    for (const Format& format : kFormats) {
      for (const int64_t rows : {1, 3, 40}) {
        Values values(4);
        const MatBuffer x = values.Matrix(rows, 160);
        const TestIntegers w(values, format.code, 45, 160, format.group_cols, format.scales);
        const TestPackedRows packed(*kernels, rows, 160);
        kernels->pack(x.view(), nullptr, 0, rows, packed.rows());
        MatBuffer got(DType::kF32, rows, 45), want(DType::kF32, rows, 45);
        kernels->linear(x.view(), w.view(), 0, 45, want.view());
        kernels->linear_packed(packed.rows(), w.view(), 0, 45, got.view());
        ExpectSameBits(got.view(), want.view(), Explain(*kernels, format));
      }
    }
  }
}

TEST(IntegerWeightsTest, SwigluIsNearTheReference) {
  for (const Kernels* kernels : TablesOfThisCpu()) {
    for (const Format& format : kFormats) {
      Values values(5);
      MatBuffer x = values.Matrix(7, 96);
      for (int i = 0; i < 7 * 96; ++i) x.view().Row<float>(0)[i] *= 0.05f;
      const TestIntegers gate(values, format.code, 64, 96, format.group_cols, format.scales);
      const TestIntegers up(values, format.code, 64, 96, format.group_cols, format.scales);
      MatBuffer identity(DType::kF32, 64, 64);
      for (int i = 0; i < 64; ++i) identity.view().Row<float>(i)[i] = 1.0f;
      WeightView unit;
      unit.matrix = identity.view();
      const auto run = [&](const Kernels& table) {
        const TestPackedRows packed(table, 7, 96), out(table, 7, 64);
        MatBuffer gate_scratch(DType::kF32, 7, 64), up_scratch(DType::kF32, 7, 64), product(DType::kF32, 7, 64);
        table.pack(x.view(), nullptr, 0, 7, packed.rows());
        table.swiglu_packed(packed.rows(), gate.view(), up.view(), 0, 64, {gate_scratch.view(), up_scratch.view()},
                            out.rows());
        table.linear_packed(out.rows(), unit, 0, 64, product.view());
        return product;
      };
      const MatBuffer got = run(*kernels), want = run(ReferenceKernels(kernels->compute));
      const double rounding = RoundsToBf16(*kernels) ? 0x1p-7 : 0x1p-15;
      for (int i = 0; i < 7 * 64; ++i) {
        const float expected = want.view().Row<float>(0)[i];
        ASSERT_NEAR(got.view().Row<float>(0)[i], expected, std::abs(expected) * rounding + 1e-5)
            << Explain(*kernels, format) << " at " << i;
      }
    }
  }
}

// Few rows are multiplied while codes are decoded, many after that.
TEST(IntegerWeightsTest, SwigluOfFewRowsHasTheBitsOfMany) {
  constexpr int64_t kRows = 40, kDepth = 1064, kWidth = 143;
  MatBuffer identity(DType::kF32, kWidth, kWidth);
  for (int64_t i = 0; i < kWidth; ++i) identity.view().Row<float>(i)[i] = 1.0f;
  WeightView unit;
  unit.matrix = identity.view();
  for (const Kernels* kernels : TablesOfThisCpu()) {
    for (const Format& format : kFormats) {
      Values values(7);
      MatBuffer x = values.Matrix(kRows, kDepth);
      for (int64_t i = 0; i < kRows * kDepth; ++i) x.view().Row<float>(0)[i] *= 0.02f;
      const TestIntegers gate(values, format.code, kWidth, kDepth, format.group_cols, format.scales);
      const TestIntegers up(values, format.code, kWidth, kDepth, format.group_cols, format.scales);
      const auto run = [&](int64_t begin, int64_t rows) {
        const TestPackedRows packed(*kernels, rows, kDepth), out(*kernels, rows, kWidth);
        MatBuffer gate_scratch(DType::kF32, rows, kWidth), up_scratch(DType::kF32, rows, kWidth);
        MatBuffer product(DType::kF32, rows, kWidth);
        kernels->pack(x.view().Rows(begin, rows), nullptr, 0, rows, packed.rows());
        const SwigluScratch scratch = {gate_scratch.view(), up_scratch.view()};
        kernels->swiglu_packed(packed.rows(), gate.view(), up.view(), 0, 128, scratch, out.rows());
        kernels->swiglu_packed(packed.rows(), gate.view(), up.view(), 128, kWidth, scratch, out.rows());
        kernels->linear_packed(out.rows(), unit, 0, kWidth, product.view());
        return product;
      };
      const MatBuffer all = run(0, kRows);
      for (const int64_t rows : {1, 2, 3, 5, 6, 16}) {
        ExpectSameBits(run(kRows - rows, rows).view(), all.view().Rows(kRows - rows, rows),
                       Explain(*kernels, format) + " rows " + std::to_string(rows));
      }
    }
  }
}

TEST(IntegerWeightsTest, TheOtherWayRoundTheyAreNearTheReferenceAndIndependentToo) {
  for (const Kernels* kernels : TablesOfThisCpu()) {
    for (const Format& format : kFormats) {
      for (const int64_t columns : {8, 136, 256}) {
        Values values(static_cast<uint32_t>(columns));
        const MatBuffer x = values.Matrix(9, 50);
        const TestIntegers w(values, format.code, 50, columns, format.group_cols, format.scales);
        MatBuffer got(DType::kF32, 9, columns), want(DType::kF32, 9, columns), split(DType::kF32, 9, columns);
        kernels->linear_transposed(x.view(), w.view(), 0, columns, got.view());
        ReferenceKernels(kernels->compute).linear_transposed(x.view(), w.view(), 0, columns, want.view());
        for (int64_t m = 0; m < 9; ++m) {
          for (int64_t k = 0; k < columns; k += 42) {
            kernels->linear_transposed(x.view().Rows(m, 1), w.view(), k, std::min(columns, k + 42),
                                       split.view().Rows(m, 1));
          }
        }
        ExpectSameBits(split.view(), got.view(), Explain(*kernels, format));
        for (int64_t i = 0; i < 9 * columns; ++i) {
          ASSERT_NEAR(got.view().Row<float>(0)[i], want.view().Row<float>(0)[i], 0x1p-24 * 52 * 50 * 4 * 4)
              << Explain(*kernels, format);
        }
      }
    }
  }
}

TEST(IntegerWeightsTest, NaNScaleReachesItsColumnOnly) {
  for (const Kernels* kernels : TablesOfThisCpu()) {
    Values values(6);
    const MatBuffer x = values.Matrix(3, 64);
    TestIntegers w(values, WeightCode::kInt4, 9, 64, 32, DType::kF32);
    w.SetScale(4, 1, std::nanf(""));
    MatBuffer y(DType::kF32, 3, 9);
    kernels->linear(x.view(), w.view(), 0, 9, y.view());
    for (int n = 0; n < 9; ++n) EXPECT_EQ(std::isnan(y.view().Row<float>(2)[n]), n == 4) << Describe(*kernels);
  }
}

}  // namespace
}  // namespace conclave
