// A weight matrix as it is stored: the bytes of the checkpoint, and block scales where it is quantised.
#ifndef CONCLAVE_MOE_TENSOR_WEIGHT_VIEW_H_
#define CONCLAVE_MOE_TENSOR_WEIGHT_VIEW_H_

#include "moe/tensor/mat_view.h"

namespace conclave {

// How the elements of a matrix lie in its bytes. kInt8: a byte u each, of value u - 128. kInt4: two to a byte, the even
// column in the lower half, a half u of value u - 8. These are the bytes of compressed-tensors' "pack-quantized"
// format, whose 32-bit words hold elements from the lowest bits on.
enum class WeightCode : uint8_t { kPlain = 0, kInt8 = 1, kInt4 = 2 };

// Row-major [rows, cols], one output feature a row (so y = x · Wᵀ). Plain: F32, BF16, F16 or F8_E4M3. For F8_E4M3, the
// value of element (r, c) is data[r, c] * scales[r / block_rows, c / block_cols] (DeepSeek-V3, section 3.3.2; the file
// calls the scales "weight_scale_inv"). Partial blocks at the right and lower edge have scales of their own. Integers
// are the same with block_rows 1, and always have scales; their block_cols is a multiple of 8 or all columns.
struct WeightView {
  ConstMatView matrix;  // [rows, cols], contiguous; integers: U8 [rows, bytes of a row]
  ConstMatView scales;  // [ceil(rows / block_rows), ceil(cols / block_cols)] of F32, BF16 or F8_E8M0; null data: none
  int32_t block_rows = 0;
  int32_t block_cols = 0;
  WeightCode code = WeightCode::kPlain;

  int64_t rows() const { return matrix.rows; }
  int64_t cols() const { return code == WeightCode::kInt4 ? 2 * matrix.cols : matrix.cols; }
  bool has_scales() const { return scales.data != nullptr; }
};

// The element (row, col) without its scale: exact.
float StoredValue(const WeightView& weight, int64_t row, int64_t col);
// The scale of element (row, col), 1 where there are none: exact.
float ScaleOf(const WeightView& weight, int64_t row, int64_t col);
// Bytes of the elements and of the scales.
int64_t StoredBytes(const WeightView& weight);

}  // namespace conclave

#endif  // CONCLAVE_MOE_TENSOR_WEIGHT_VIEW_H_
