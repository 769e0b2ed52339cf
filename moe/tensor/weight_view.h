// A weight matrix as it is stored: the bytes of the checkpoint, and block scales where it is quantised.
#ifndef CONCLAVE_MOE_TENSOR_WEIGHT_VIEW_H_
#define CONCLAVE_MOE_TENSOR_WEIGHT_VIEW_H_

#include "moe/tensor/mat_view.h"

namespace conclave {

// Row-major [rows, cols] of F32, BF16, F16 or F8_E4M3, one output feature a row (so y = x · Wᵀ). For F8_E4M3,
// the value of element (r, c) is data[r, c] * scales[r / block_rows, c / block_cols] (DeepSeek-V3, section 3.3.2;
// the file calls the scales "weight_scale_inv"). Partial blocks at the right and lower edge have scales of their own.
struct WeightView {
  ConstMatView matrix;       // [rows, cols], contiguous
  ConstMatView scales;       // [ceil(rows / block_rows), ceil(cols / block_cols)] of F32 or F8_E8M0; null data: none
  int32_t block_rows = 0;
  int32_t block_cols = 0;

  int64_t rows() const { return matrix.rows; }
  int64_t cols() const { return matrix.cols; }
  bool has_scales() const { return scales.data != nullptr; }
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_TENSOR_WEIGHT_VIEW_H_
