#include "moe/tensor/finite_rows.h"

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "gtest/gtest.h"
#include "moe/tensor/buffer.h"
#include "moe/tensor/dtype.h"

namespace conclave {
namespace {

void Store(MatView view, int64_t row, int64_t col, float value) {
  if (view.dtype == DType::kF32) {
    view.Row<float>(row)[col] = value;
  } else {
    view.Row<uint16_t>(row)[col] = FloatToBf16(value);
  }
}

TEST(FirstNonFiniteRow, FindsEveryPlaceAndKindAndNothingElse) {
  using Limits = std::numeric_limits<float>;
  const std::vector<float> finite = {0.0f, -0.0f, 1.0f, -1.0f, 3e38f, -3e38f, Limits::denorm_min(), 1e-38f};
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const int64_t cols : {1, 2, 3, 5, 8, 13}) {
      MatBuffer wide(dtype, 3, cols + 2);
      const MatView rows = wide.view().Cols(0, cols);
      const auto fill = [&] {
        for (int64_t i = 0; i < 3 * (cols + 2); ++i) Store(wide.view(), i / (cols + 2), i % (cols + 2), finite[i % 8]);
        Store(wide.view(), 1, cols, Limits::quiet_NaN());  // beside the rows, not in them
      };
      fill();
      EXPECT_EQ(FirstNonFiniteRow(rows, dtype), -1) << Name(dtype) << " " << cols;
      for (const float bad : {Limits::quiet_NaN(), Limits::infinity(), -Limits::infinity()}) {
        for (int64_t at = 0; at < 3 * cols; ++at) {
          fill();
          Store(rows, at / cols, at % cols, bad);
          EXPECT_EQ(FirstNonFiniteRow(rows, dtype), at / cols) << Name(dtype) << " " << cols << " columns, at " << at;
        }
      }
    }
  }
  EXPECT_EQ(FirstNonFiniteRow(MatBuffer(DType::kF32, 0, 8).view(), DType::kF32), -1);
}

TEST(FirstNonFiniteRow, CountsWhatRoundingMakesInfinite) {
  for (const uint32_t bits :
       {0x7f7f7fffu, 0xff7f7fffu, 0x7f7f8000u, 0xff7f8000u, 0x7f7fffffu, 0x7fffffffu, 0x3f80ffffu}) {
    float value = std::bit_cast<float>(bits);
    const ConstMatView row = ViewF32(&value, 1, 1);
    EXPECT_EQ(FirstNonFiniteRow(row, DType::kF32), std::isfinite(value) ? -1 : 0) << value;
    EXPECT_EQ(FirstNonFiniteRow(row, DType::kBF16), std::isfinite(Bf16ToFloat(FloatToBf16(value))) ? -1 : 0) << value;
  }
}

}  // namespace
}  // namespace conclave
