// Accumulators of the two tile layouts to rows of float32.
#ifndef CONCLAVE_MOE_KERNELS_CUDA_SM90_STORE_F32_CUH_
#define CONCLAVE_MOE_KERNELS_CUDA_SM90_STORE_F32_CUH_

#include "moe/kernels/cuda/sm90_fp8_mainloop.cuh"

namespace conclave::sm90 {

// Where a tile's sums go.
struct FloatRows {
  float* out;      // [rows, stride]
  int64_t stride;  // even
  int features;    // even; what lies past them is not stored
};

// Features down, rows across (ConsumeTile). With `add`, what is there already comes first in the sum; the thread that
// stored it adds to it.
template <int kTokens>
__device__ inline void StoreFloats(const float (&acc)[2][kTokens / 2], const Tile& tile, const int (&half_features)[2],
                                   const FloatRows& to, bool add) {
  const int lane = threadIdx.x % 32, feature = 16 * (threadIdx.x / 32) + lane / 4;
  int row = 2 * (lane % 4);
  float* at = to.out + (tile.row_begin + row) * to.stride + feature;
#pragma unroll
  for (int j = 0; j < kTokens / 8; ++j) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          const int first = half_features[half] + 8 * h;
          if (row + i < tile.rows && first + feature < to.features) {
            float* sum = at + i * to.stride + first;
            const float value = acc[half][4 * j + 2 * h + i];
            *sum = add ? *sum + value : value;
          }
        }
      }
    }
    row += 8;
    at += 8 * to.stride;
  }
}

// Rows down, features across (ConsumeWideTile).
__device__ inline void StoreWideFloats(const float (&acc)[2][64], const Tile& tile, const int (&half_features)[2],
                                       const FloatRows& to, bool add) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int row = threadIdx.x / 32 * 16 + lane / 4 + 8 * h;
    if (row >= tile.rows) continue;
    float* of_row = to.out + (tile.row_begin + row) * to.stride;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int j = 0; j < 16; ++j) {
        const int feature = half_features[half] + 8 * j + 2 * (lane % 4);
        if (feature >= to.features) continue;
        auto* at = reinterpret_cast<float2*>(of_row + feature);
        float2 sums = make_float2(acc[half][4 * j + 2 * h], acc[half][4 * j + 2 * h + 1]);
        if (add) {
          const float2 before = *at;
          sums = make_float2(before.x + sums.x, before.y + sums.y);
        }
        *at = sums;
      }
    }
  }
}

}  // namespace conclave::sm90

#endif  // CONCLAVE_MOE_KERNELS_CUDA_SM90_STORE_F32_CUH_
