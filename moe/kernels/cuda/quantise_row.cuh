// Rows to e4m3 with one scale for each 128 values, the largest magnitude at 448 (DeepSeek-V3, section 3.3.2).
#pragma once

#include <cuda_fp8.h>

#include "moe/kernels/cuda/grouped_ffn.h"

namespace conclave::cuda {

// Threads of a row; each has eight neighbours of every pass, sixteen threads a block of 128.
inline constexpr int kQuantiseThreads = 256, kQuantisePasses = 4;
inline constexpr int kQuantiseCols = 8 * kQuantiseThreads * kQuantisePasses;

// What a thread has of a quantised row.
struct QuantisedEights {
  uint2 values[kQuantisePasses];
  float scales[kQuantisePasses];
};

// x / scale for `inverse` = 1 / scale rounded: Markstein's division (IBM Journal of Research and Development 34, 1990),
// the nearest float but for a scale whose mantissa is all ones, where the last bit may differ.
__device__ __forceinline__ float Quotient(float x, float scale, float inverse) {
  const float close = x * inverse;
  return __fmaf_rn(__fmaf_rn(-close, scale, x), inverse, close);
}

// The thread's columns of pass `pass`, in the blockIdx.y-th kQuantiseCols columns.
__device__ __forceinline__ int QuantiseCol(int pass) {
  return 8 * (static_cast<int>(blockIdx.y * kQuantisePasses + pass) * kQuantiseThreads + static_cast<int>(threadIdx.x));
}

// Quantises kQuantiseCols columns of a row of `cols`; load(column, eight) fills eight neighbours.
template <typename Load>
__device__ inline QuantisedEights QuantiseRow(int cols, Load load) {
  constexpr float kLargestE4M3 = 448.0f;
  float x[kQuantisePasses][8];
#pragma unroll
  for (int pass = 0; pass < kQuantisePasses; ++pass) {
    if (QuantiseCol(pass) < cols) load(QuantiseCol(pass), x[pass]);
  }
  QuantisedEights result;
#pragma unroll
  for (int pass = 0; pass < kQuantisePasses; ++pass) {
    if (QuantiseCol(pass) >= cols) break;  // of half a warp at least: blocks do not part
    const float(&v)[8] = x[pass];
    float largest = 0;
#pragma unroll
    for (int i = 0; i < 8; ++i) largest = fmaxf(largest, fabsf(v[i]));
#pragma unroll
    for (int offset = 8; offset > 0; offset >>= 1) {
      largest = fmaxf(largest, __shfl_xor_sync(threadIdx.x & 16 ? 0xffff0000u : 0xffffu, largest, offset));
    }
    const float scale = fmaxf(largest, 1e-10f) / kLargestE4M3, inverse = 1.0f / scale;
    const auto four = [&](int from) {
      const __nv_fp8x4_e4m3 values(make_float4(Quotient(v[from], scale, inverse), Quotient(v[from + 1], scale, inverse),
                                               Quotient(v[from + 2], scale, inverse),
                                               Quotient(v[from + 3], scale, inverse)));
      return static_cast<uint32_t>(values.__x);
    };
    result.values[pass] = make_uint2(four(0), four(4));
    result.scales[pass] = scale;
  }
  return result;
}

__device__ inline void StoreQuantised(const QuantisedEights& x, const Fp8Rows& out, int64_t row) {
#pragma unroll
  for (int pass = 0; pass < kQuantisePasses; ++pass) {
    const int col = QuantiseCol(pass);
    if (col >= out.cols) break;
    *reinterpret_cast<uint2*>(static_cast<uint8_t*>(out.data) + row * out.cols + col) = x.values[pass];
    if (threadIdx.x % 16 == 0) out.scales[int64_t{col / kScaleBlock} * out.rows_capacity + row] = x.scales[pass];
  }
}

// Blocks of threads for rows of `cols`.
inline unsigned QuantiseBlocks(int cols) { return static_cast<unsigned>((cols + kQuantiseCols - 1) / kQuantiseCols); }

}  // namespace conclave::cuda
