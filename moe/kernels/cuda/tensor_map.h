// Descriptors for the tensor copy engine.
#ifndef CONCLAVE_MOE_KERNELS_CUDA_TENSOR_MAP_H_
#define CONCLAVE_MOE_KERNELS_CUDA_TENSOR_MAP_H_

#include <cuda.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <string>

#include "absl/status/status.h"

namespace conclave::cuda {

// What a map describes: the sizes of each dimension and of a box, contiguous dimension first, and the bytes between
// neighbours in the dimensions after it (multiples of 16).
template <int kDimensions>
struct TensorShape {
  cuuint64_t sizes[kDimensions];
  cuuint64_t strides[kDimensions - 1];
  cuuint32_t box[kDimensions];
};

// Elements outside the tensor arrive as zeros. The encoder lives in the driver; the run-time library finds it, so that
// nothing links to libcuda.
template <int kDimensions>
absl::Status MakeTensorMap(CUtensorMap* map, const void* data, CUtensorMapDataType type,
                           const TensorShape<kDimensions>& shape, CUtensorMapSwizzle swizzle) {
  using EncodeTiled = CUresult (*)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*,
                                   const cuuint64_t*, const cuuint32_t*, const cuuint32_t*, CUtensorMapInterleave,
                                   CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill);
  static const EncodeTiled encode = [] {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult found;
    cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &found);
    return reinterpret_cast<EncodeTiled>(function);
  }();
  if (encode == nullptr) return absl::FailedPreconditionError("the CUDA driver is older than 12.0: update it");
  const cuuint32_t steps[3] = {1, 1, 1};
  const CUresult result = encode(map, type, kDimensions, const_cast<void*>(data), shape.sizes, shape.strides, shape.box,
                                 steps, CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                                 CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result == CUDA_SUCCESS) return absl::OkStatus();
  return absl::InternalError("cuTensorMapEncodeTiled failed with " + std::to_string(static_cast<int>(result)));
}

// A row-major matrix [rows, cols] and the box [box_rows, box_cols] that one copy brings to shared memory.
inline absl::Status MakeTensorMap(CUtensorMap* map, const void* data, CUtensorMapDataType type, int element_bytes,
                                  int64_t rows, int64_t cols, int box_rows, int box_cols, CUtensorMapSwizzle swizzle) {
  const TensorShape<2> shape = {{static_cast<cuuint64_t>(cols), static_cast<cuuint64_t>(rows)},
                                {static_cast<cuuint64_t>(cols) * element_bytes},
                                {static_cast<cuuint32_t>(box_cols), static_cast<cuuint32_t>(box_rows)}};
  return MakeTensorMap(map, data, type, shape, swizzle);
}

}  // namespace conclave::cuda

#endif  // CONCLAVE_MOE_KERNELS_CUDA_TENSOR_MAP_H_
