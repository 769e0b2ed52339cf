// One small product for every attention head: queries into the latent space and values out of it (DeepSeek-V2, section
// 2.1). The host's view, free of CUDA headers.
#ifndef CONCLAVE_MOE_KERNELS_CUDA_HEAD_PRODUCTS_H_
#define CONCLAVE_MOE_KERNELS_CUDA_HEAD_PRODUCTS_H_

#include <cstdint>

#include "absl/status/status.h"

namespace conclave::cuda {

// out[r, h, n] = Σ_k x[r, h, k] · W_h[n, k] in bfloat16 for e4m3 weights with a scale for every 128 x 128. A block of
// 128 along K is summed by the tensor core in float32, then acc += sum · scale, blocks ascending, whatever the number
// of rows.
struct HeadProducts {
  const void* x = nullptr;         // bf16: x[r, h, k] at r · x_stride + h · x_batch + k, 16-byte aligned
  int64_t x_stride = 0, x_batch = 0;  // multiples of 8
  const void* w = nullptr;         // [w_rows, cols] e4m3; head h has the rows from w_begin + h · w_step
  const float* w_scales = nullptr; // [w_rows / 128, cols / 128]
  int64_t w_begin = 0, w_step = 0; // multiples of 128
  void* out = nullptr;             // bf16: as x, 8-byte aligned
  int64_t out_stride = 0, out_batch = 0;  // multiples of 4
  int rows = 0;
  int heads = 0;
  int features = 0;                // of a head, a multiple of 128
  int cols = 0;                    // K: a multiple of 128, at most 512
};

// `stream` is a cudaStream_t. INVALID_ARGUMENT names the field; INTERNAL carries CUDA's error.
absl::Status LaunchHeadProducts(const HeadProducts& problem, void* stream);

}  // namespace conclave::cuda

#endif  // CONCLAVE_MOE_KERNELS_CUDA_HEAD_PRODUCTS_H_
