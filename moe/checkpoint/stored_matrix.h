// What reading plain and packed matrices of a checkpoint shares. Private to this folder.
#ifndef CONCLAVE_MOE_CHECKPOINT_STORED_MATRIX_H_
#define CONCLAVE_MOE_CHECKPOINT_STORED_MATRIX_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "moe/checkpoint/safetensors.h"
#include "moe/tensor/mat_view.h"

namespace conclave {

inline int64_t CeilDivide(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Stored bytes as a matrix.
inline ConstMatView Contiguous(const std::byte* data, DType dtype, int64_t rows, int64_t cols) {
  return BasicMatView<const void*>{data, dtype, Device::kCpu, rows, cols, cols};
}

// DATA_LOSS that names file, tensor and both shapes.
inline absl::Status WrongShape(const SafetensorsTensor& tensor, absl::string_view name,
                               const std::vector<int64_t>& wanted) {
  return absl::DataLossError(absl::StrCat(tensor.file->path(), ": tensor ", name, " has shape [",
                                          absl::StrJoin(tensor.shape, ", "), "]; config.json needs [",
                                          absl::StrJoin(wanted, ", "), "]"));
}

}  // namespace conclave

#endif  // CONCLAVE_MOE_CHECKPOINT_STORED_MATRIX_H_
