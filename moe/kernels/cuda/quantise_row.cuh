// Rows to e4m3 with one scale for each 128 values, the largest magnitude at 448 (DeepSeek-V3, section 3.3.2).
#pragma once

#include <cuda_fp8.h>

#include "moe/kernels/cuda/grouped_ffn.h"

namespace conclave::cuda {

// A warp quantises one block of 128 values of row `row` of `out`; a lane gives four neighbours.
__device__ inline void QuantiseBlock(float4 x, const Fp8Rows& out, int64_t row, int block) {
  constexpr float kLargestE4M3 = 448.0f;
  const int lane = threadIdx.x & 31;
  float largest = fmaxf(fmaxf(fabsf(x.x), fabsf(x.y)), fmaxf(fabsf(x.z), fabsf(x.w)));
#pragma unroll
  for (int offset = 16; offset > 0; offset >>= 1) {
    largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, offset));
  }
  const float scale = fmaxf(largest, 1e-10f) / kLargestE4M3;
  const __nv_fp8x4_e4m3 four(make_float4(x.x / scale, x.y / scale, x.z / scale, x.w / scale));
  *reinterpret_cast<__nv_fp8x4_e4m3*>(static_cast<uint8_t*>(out.data) + row * out.cols + block * kScaleBlock + lane * 4) = four;
  if (lane == 0) out.scales[int64_t{block} * out.rows_capacity + row] = scale;
}

// Blocks of a warp, for the sake of loads in flight: a warp takes every warps-th block.
inline constexpr int kQuantiseBlocks = 8, kQuantiseThreads = 256;
inline constexpr int kQuantiseBlocksOfThreads = kQuantiseBlocks * kQuantiseThreads / 32;

// The blocks [blockIdx.y * kQuantiseBlocksOfThreads, …) of row `row` of `out`, kQuantiseThreads threads; load(column)
// gives four neighbours.
template <typename Load>
__device__ inline void QuantiseRow(const Fp8Rows& out, int64_t row, Load load) {
  constexpr int kWarps = kQuantiseThreads / 32;
  const int blocks = out.cols / kScaleBlock, lane = threadIdx.x % 32;
  const int first = blockIdx.y * kQuantiseBlocksOfThreads + threadIdx.x / 32;
  float4 values[kQuantiseBlocks];
#pragma unroll
  for (int i = 0; i < kQuantiseBlocks; ++i) {
    const int block = first + i * kWarps;
    if (block < blocks) values[i] = load(block * kScaleBlock + lane * 4);
  }
#pragma unroll
  for (int i = 0; i < kQuantiseBlocks; ++i) {
    const int block = first + i * kWarps;
    if (block < blocks) QuantiseBlock(values[i], out, row, block);
  }
}

}  // namespace conclave::cuda
