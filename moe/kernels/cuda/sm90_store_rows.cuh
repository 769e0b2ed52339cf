// Accumulators of the two tile layouts to rows of float32 or bfloat16.
#ifndef CONCLAVE_MOE_KERNELS_CUDA_SM90_STORE_ROWS_CUH_
#define CONCLAVE_MOE_KERNELS_CUDA_SM90_STORE_ROWS_CUH_

#include "moe/kernels/cuda/sm90_fp8_mainloop.cuh"
#include "moe/kernels/cuda/sm90_fp8_wide.cuh"

namespace conclave::sm90 {

// Where a tile's sums go.
struct OutputRows {
  void* out;       // [rows, stride] float32, or bfloat16
  int64_t stride;  // a multiple of 8
  int features;    // a multiple of 8; what lies past them is not stored
  bool bf16;

  __device__ __forceinline__ void Store(int64_t row, int feature, float sum) const {
    if (bf16) {
      static_cast<__nv_bfloat16*>(out)[row * stride + feature] = __float2bfloat16_rn(sum);
    } else {
      static_cast<float*>(out)[row * stride + feature] = sum;
    }
  }
};

// Features down, rows across (ConsumeTile), in float32.
template <int kTokens>
__device__ inline void StoreFloats(const float (&acc)[2][kTokens / 2], const Tile& tile, const int (&half_features)[2],
                                   const OutputRows& to) {
  const int lane = threadIdx.x % 32, feature = 16 * (threadIdx.x / 32) + lane / 4;
  int row = 2 * (lane % 4);
  float* at = static_cast<float*>(to.out) + (tile.row_begin + row) * to.stride + feature;
#pragma unroll
  for (int j = 0; j < kTokens / 8; ++j) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          const int first = half_features[half] + 8 * h;
          if (row + i < tile.rows && first + feature < to.features)
            at[i * to.stride + first] = acc[half][4 * j + 2 * h + i];
        }
      }
    }
    row += 8;
    at += 8 * to.stride;
  }
}

// Rows down, features across (ConsumeWideTile).
__device__ inline void StoreWide(const float (&acc)[2][64], const Tile& tile, const int (&half_features)[2],
                                 const OutputRows& to) {
  if (to.bf16) {
    StoreWideBf16(acc, tile, half_features, to.stride, to.features, static_cast<__nv_bfloat16*>(to.out));
    return;
  }
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int row = threadIdx.x / 32 * 16 + lane / 4 + 8 * h;
    if (row >= tile.rows) continue;
    float* of_row = static_cast<float*>(to.out) + (tile.row_begin + row) * to.stride;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int j = 0; j < 16; ++j) {
        const int feature = half_features[half] + 8 * j + 2 * (lane % 4);
        if (feature >= to.features) continue;
        *reinterpret_cast<float2*>(of_row + feature) =
            make_float2(acc[half][4 * j + 2 * h], acc[half][4 * j + 2 * h + 1]);
      }
    }
  }
}

}  // namespace conclave::sm90

#endif  // CONCLAVE_MOE_KERNELS_CUDA_SM90_STORE_ROWS_CUH_
