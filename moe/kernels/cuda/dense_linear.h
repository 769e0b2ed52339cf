// Dense products on Hopper's tensor cores: the host's view, free of CUDA headers. One matrix, any number of rows.
//
// FP8: as grouped_ffn.h, but K is cut into splits that depend on the matrix alone; each split sums its blocks from zero,
// and splits are added up in ascending order in float32. Few rows give splits to different multiprocessors, which is what
// streams a narrow matrix at memory speed; many rows take them one after the other. The bits are the same.
// bfloat16: the tensor core sums all of K in float32, ascending.
#ifndef CONCLAVE_MOE_KERNELS_CUDA_DENSE_LINEAR_H_
#define CONCLAVE_MOE_KERNELS_CUDA_DENSE_LINEAR_H_

#include <cstdint>

#include "absl/status/status.h"
#include "moe/kernels/cuda/grouped_ffn.h"

namespace conclave::cuda {

// out[r, n] = Σ_k x[r, k] · W[n, k]. All pointers are device pointers.
struct Fp8Linear {
  Fp8Rows x;
  const void* w = nullptr;          // [features, x.cols] e4m3, 16-byte aligned
  const float* w_scales = nullptr;  // [ceil(features / 128), x.cols / 128]
  int features = 0;                 // a multiple of 8
  int rows = 0;                     // at most x.rows_capacity
  float* out = nullptr;             // [rows, out_stride], 16-byte aligned
  int64_t out_stride = 0;           // a multiple of 4
  void* workspace = nullptr;        // kLinearWorkspaceBytes, 16-byte aligned; its first kLinearCounterBytes zeros before
                                    // the first launch, and after each
};

// What the partial sums of few rows need at most, whatever the matrix.
inline constexpr int64_t kLinearCounterBytes = 4096;
inline constexpr int64_t kLinearWorkspaceBytes = kLinearCounterBytes + int64_t{2} * 132 * 128 * 1024;

// `stream` is a cudaStream_t. INVALID_ARGUMENT names the field; INTERNAL carries CUDA's error.
absl::Status LaunchFp8Linear(const Fp8Linear& problem, void* stream);

// The same in bfloat16.
struct Bf16Linear {
  const void* x = nullptr;         // [rows, cols] bf16, 16-byte aligned
  const void* w = nullptr;         // [features, cols] bf16, 16-byte aligned
  int features = 0;                // a multiple of 8
  int cols = 0;                    // a multiple of 64
  int rows = 0;
  const int32_t* row_range = nullptr;  // on the device: 0, then `rows`
  float* out = nullptr;            // [rows, features], 16-byte aligned
};
absl::Status LaunchBf16Linear(const Bf16Linear& problem, void* stream);

}  // namespace conclave::cuda

#endif  // CONCLAVE_MOE_KERNELS_CUDA_DENSE_LINEAR_H_
