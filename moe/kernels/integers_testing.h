// For the kernels' tests: packed INT8 and INT4 matrices.
#ifndef CONCLAVE_MOE_KERNELS_INTEGERS_TESTING_H_
#define CONCLAVE_MOE_KERNELS_INTEGERS_TESTING_H_

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "moe/kernels/kernels_testing.h"
#include "moe/tensor/dtype.h"
#include "moe/tensor/mat_view.h"
#include "moe/tensor/weight_view.h"

namespace conclave::testing {

// Packed integers of random codes, with scales for values of about unit size.
class TestIntegers {
 public:
  // `group_cols` 0: one scale a row.
  TestIntegers(Values& values, WeightCode code, int64_t rows, int64_t cols, int group_cols, DType scales)
      : bytes_(rows * cols / (code == WeightCode::kInt4 ? 2 : 1)) {
    for (uint8_t& byte : bytes_) byte = static_cast<uint8_t>(values.Bits());
    const int64_t row_bytes = static_cast<int64_t>(bytes_.size()) / rows;
    view_.code = code;
    view_.matrix = BasicMatView<const void*>{bytes_.data(), DType::kU8, Device::kCpu, rows, row_bytes, row_bytes};
    view_.block_rows = 1;
    view_.block_cols = group_cols == 0 ? static_cast<int32_t>(cols) : group_cols;
    const int64_t scale_cols = (cols + view_.block_cols - 1) / view_.block_cols;
    scales_.resize(rows * scale_cols * SizeOf(scales));
    view_.scales = BasicMatView<const void*>{scales_.data(), scales, Device::kCpu, rows, scale_cols, scale_cols};
    const float unit = code == WeightCode::kInt4 ? 0.2f : 0.015f;
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t col = 0; col < scale_cols; ++col) SetScale(row, col, unit * (0.5f + std::abs(values.Next()) / 4));
    }
  }

  const WeightView& view() const { return view_; }
  void Set(int64_t row, int64_t col, int value) {
    if (view_.code == WeightCode::kInt8) {
      bytes_[row * view_.matrix.cols + col] = static_cast<uint8_t>(value + 128);
      return;
    }
    uint8_t& byte = bytes_[row * view_.matrix.cols + col / 2];
    const int shift = static_cast<int>(col % 2 * 4);
    byte = static_cast<uint8_t>((byte & ~(0xf << shift)) | (value + 8) << shift);
  }
  void SetScale(int64_t row, int64_t col, float scale) {
    const int64_t index = row * view_.scales.cols + col;
    const uint16_t half = FloatToBf16(scale);
    if (view_.scales.dtype == DType::kF32) std::memcpy(&scales_[index * sizeof(scale)], &scale, sizeof(scale));
    if (view_.scales.dtype == DType::kBF16) std::memcpy(&scales_[index * sizeof(half)], &half, sizeof(half));
  }

 private:
  std::vector<uint8_t> bytes_;
  std::vector<uint8_t> scales_;
  WeightView view_;
};

}  // namespace conclave::testing

#endif  // CONCLAVE_MOE_KERNELS_INTEGERS_TESTING_H_
