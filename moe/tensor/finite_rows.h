// Finds rows that hold a NaN or an infinity.
#ifndef CONCLAVE_MOE_TENSOR_FINITE_ROWS_H_
#define CONCLAVE_MOE_TENSOR_FINITE_ROWS_H_

#include <cstdint>

#include "moe/tensor/mat_view.h"

namespace conclave {

// The first row that holds a value which is not finite once it has been rounded to `rounded_to`; -1: there is none.
// REQUIRES: rows [rows, cols] of F32 or BF16, on the CPU; rounded_to: their own dtype, or BF16
int64_t FirstNonFiniteRow(ConstMatView rows, DType rounded_to);

}  // namespace conclave

#endif  // CONCLAVE_MOE_TENSOR_FINITE_ROWS_H_
