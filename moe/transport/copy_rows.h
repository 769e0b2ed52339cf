// Copies rows between matrices that may be strided differently.
#ifndef CONCLAVE_MOE_TRANSPORT_COPY_ROWS_H_
#define CONCLAVE_MOE_TRANSPORT_COPY_ROWS_H_

#include <cstring>

#include "moe/base/check.h"
#include "moe/tensor/mat_view.h"

namespace conclave {

// to[i] = from[i]. REQUIRES: equal shapes and dtypes, both on the CPU, no overlap
inline void CopyRows(ConstMatView from, MatView to) {
  CONCLAVE_CHECK(from.rows == to.rows && from.cols == to.cols && from.dtype == to.dtype)
      << from.rows << "x" << from.cols << " into " << to.rows << "x" << to.cols;
  if (from.rows == 0) return;
  const int64_t row_bytes = from.cols * SizeOf(from.dtype);
  if (from.stride == from.cols && to.stride == to.cols) {
    std::memcpy(to.data, from.data, from.rows * row_bytes);
    return;
  }
  for (int64_t row = 0; row < from.rows; ++row) std::memcpy(to.RowBytes(row), from.RowBytes(row), row_bytes);
}

}  // namespace conclave

#endif  // CONCLAVE_MOE_TRANSPORT_COPY_ROWS_H_
