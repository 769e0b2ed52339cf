// The two warpgroups of MLA decode on Hopper that multiply and take softmax: see sm90_bf16_mla_decode.cuh.
#ifndef CONCLAVE_MOE_KERNELS_CUDA_SM90_BF16_MLA_CONSUMER_CUH_
#define CONCLAVE_MOE_KERNELS_CUDA_SM90_BF16_MLA_CONSUMER_CUH_

#include <cuda_bf16.h>

#include "moe/kernels/cuda/sm90_bf16_mla_stages.cuh"
#include "moe/kernels/cuda/sm90_wgmma_bf16.cuh"

namespace conclave::sm90::mla {

// What a consumer thread holds: for its two heads, row and row + 8 of the tile, its part of the sum of 256 columns.
struct Consumer {
  float sum[128];
  float scores[32];
  int lane, row;
};

__device__ inline void AwaitPart(Shared& s, int block, int part) {
  BarrierWait(&s.full[block % kStages][part], block / kStages & 1);
}

// The latents past the last token may be anything, NaN too: times a weight of zero they must be zero. Returns how many
// tokens the block has.
template <int kWarpgroup>
__device__ inline int AwaitAndClearTail(Shared& s, int block, int tokens) {
  const int valid = min(kBlockTokens, tokens - block * kBlockTokens);
  if (valid < kBlockTokens) {
    AwaitPart(s, block, 0);
    AwaitPart(s, block, 1);
    for (int i = threadIdx.x % 128; i < (kBlockTokens - valid) * 64; i += 128) {
      *reinterpret_cast<uint4*>(s.Block(i / 8 % 8, block) + (valid + i / 64) * 128 + i % 8 * 16) = make_uint4(0, 0, 0, 0);
    }
    FenceSharedForAsync();
    NamedBarrier(1 + kWarpgroup, 128);
  }
  return valid;
}

// scores = query · keysᵀ of a block, part after part as they arrive.
__device__ inline void TakeScores(Shared& s, Consumer& c, int block) {
  // Hidden from the compiler, which would keep 36 descriptors in registers that it does not have.
  uint64_t query = OperandDescriptor(s.query), keys = OperandDescriptor(s.Block(0, block));
  asm volatile("" : "+l"(query), "+l"(keys));
#pragma unroll
  for (int i = 0; i < 32; ++i) WgmmaTouch(c.scores[i]);
#pragma unroll
  for (int panel = 0; panel < kPanels; ++panel) {
    if (panel % 4 == 0) {
      AwaitPart(s, block, panel / 4);
      WgmmaFence();
    }
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      const int at = panel * (kPanelBytes >> 4) + 2 * step;
      WgmmaBf16<64>::Run(c.scores, query + at, keys + at, panel + step > 0);
    }
  }
  WgmmaCommit();
  WgmmaWait<0>();
#pragma unroll
  for (int i = 0; i < 32; ++i) WgmmaTouch(c.scores[i]);
}

// 2^x; the tensor cores' inputs are coarser than its error.
__device__ __forceinline__ float Exp2(float x) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

// The largest score of the thread's row 0 or 8, over the four lanes that share it.
__device__ __forceinline__ float LargestOfRow(const float (&scores)[32], int h) {
  float of_four[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    of_four[i] = fmaxf(fmaxf(scores[8 * i + 2 * h], scores[8 * i + 2 * h + 1]), fmaxf(scores[8 * i + 4 + 2 * h], scores[8 * i + 5 + 2 * h]));
  }
  float largest = fmaxf(fmaxf(of_four[0], of_four[1]), fmaxf(of_four[2], of_four[3]));
  largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, 1));
  return fmaxf(largest, __shfl_xor_sync(~0u, largest, 2));
}

// Scores past the last token become -inf; returns the largest score of the thread's two rows.
__device__ inline float2 MaskedMaximum(Consumer& c, int valid) {
  if (valid < kBlockTokens) {
#pragma unroll
    for (int i = 0; i < 32; ++i) {
      if (i / 4 * 8 + c.lane % 4 * 2 + i % 2 >= valid) c.scores[i] = -INFINITY;
    }
  }
  return make_float2(LargestOfRow(c.scores, 0), LargestOfRow(c.scores, 1));
}

// How far scores may exceed the row's maximum, as a power of two, before the maximum moves and the sum shrinks: weights
// up to 2^8 are as exact as weights up to 1, and the sum is rarely touched.
inline constexpr float kSlack = 8.0f;

// Scores → weights in shared memory, with the row's maximum, denominator and shrink. REQUIRES: the weights of the block
// before were waited for.
template <int kWarpgroup>
__device__ inline void Softmax(Shared& s, Consumer& c, int block, float2 largest, float scale_log2) {
  float before[2], maximum[2], sum[2];
  uint32_t weights[16];  // bfloat16 pairs: [j][h]
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    before[h] = s.maximum[c.row + 8 * h];
    const float of_block = (h == 0 ? largest.x : largest.y) * scale_log2;
    maximum[h] = of_block - before[h] > kSlack ? of_block : before[h];
    float sums[2] = {0, 0};
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const float low = Exp2(__fmaf_rn(c.scores[4 * j + 2 * h], scale_log2, -maximum[h]));
      const float high = Exp2(__fmaf_rn(c.scores[4 * j + 2 * h + 1], scale_log2, -maximum[h]));
      sums[0] += low;
      sums[1] += high;
      const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
      weights[2 * j + h] = *reinterpret_cast<const uint32_t*>(&pair);
    }
    sum[h] = sums[0] + sums[1];
    sum[h] += __shfl_xor_sync(~0u, sum[h], 1);
    sum[h] += __shfl_xor_sync(~0u, sum[h], 2);
  }
  __syncwarp();  // all four lanes of a row have read its maximum
  if (c.lane % 4 == 0) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const float shrink = Exp2(before[h] - maximum[h]);
      s.maximum[c.row + 8 * h] = maximum[h];
      s.shrink[block % kStages][c.row + 8 * h] = shrink;
      s.denominator[c.row + 8 * h] = __fmaf_rn(s.denominator[c.row + 8 * h], shrink, sum[h]);
    }
  }
  NamedBarrier(1 + kWarpgroup, 128);  // the tensor cores of all four warps are done with the rotated part
  // Four 8x8 matrices a store: rows 0 and 8 of columns j and j + 1. A lane names the row of one of them.
  const int row = c.row - c.lane / 4 + c.lane % 16;
  uint8_t* of_row = s.Block(kPanels - 1, block) + row * 128;
#pragma unroll
  for (int j = 0; j < 8; j += 2) StoreMatrices(of_row + ((j + c.lane / 16) ^ row % 8) * 16, &weights[2 * j]);
  FenceSharedForAsync();
  BarrierArrive(&s.weights[block % kStages]);
}

// Issues sum = sum · shrink + weights · latents of a block, this warpgroup's columns.
template <int kWarpgroup>
__device__ inline void IssueSum(Shared& s, Consumer& c, int block) {
  const int stage = block % kStages;
  BarrierWait(&s.weights[stage], block / kStages & 1);
  const float shrink[2] = {s.shrink[stage][c.row], s.shrink[stage][c.row + 8]};
#pragma unroll
  for (int i = 0; i < 128; ++i) WgmmaTouch(c.sum[i]);
  if (__any_sync(~0u, shrink[0] != 1.0f || shrink[1] != 1.0f)) {
#pragma unroll
    for (int i = 0; i < 128; ++i) c.sum[i] *= shrink[i / 2 % 2];
  }
#pragma unroll
  for (int i = 0; i < 128; ++i) WgmmaTouch(c.sum[i]);
  const uint64_t weights = OperandDescriptor(s.Block(kPanels - 1, block));
  const uint64_t latents = TransposedOperandDescriptor(s.Block(4 * kWarpgroup, block), kPanelBytes);
  WgmmaFence();
#pragma unroll
  for (int step = 0; step < kBlockTokens / 16; ++step) {
    WgmmaBf16Transposed<256>::Run(c.sum, weights + 2 * step, latents + 128 * step, 1);
  }
  WgmmaCommit();
}

// Waits for the sum over a block, and frees it.
template <int kWarpgroup>
__device__ inline void Release(Shared& s, Consumer& c, int block) {
  WgmmaWait<0>();
#pragma unroll
  for (int i = 0; i < 128; ++i) WgmmaTouch(c.sum[i]);
  if (c.lane != 0) return;
  BarrierArrive(&s.empty[block % kStages][kWarpgroup]);
  BarrierArrive(&s.empty[block % kStages][2]);
}

template <int kWarpgroup>
__device__ inline void Sum(Shared& s, Consumer& c, int block) {
  IssueSum<kWarpgroup>(s, c, block);
  Release<kWarpgroup>(s, c, block);
}

// The first warpgroup: scores of even blocks.
__device__ inline void ConsumeEven(Shared& s, Consumer& c, int tokens, int blocks, float scale_log2) {
  for (int block = 0; block < blocks; block += 2) {
    const int valid = AwaitAndClearTail<0>(s, block, tokens);
    TakeScores(s, c, block);
    Softmax<0>(s, c, block, MaskedMaximum(c, valid), scale_log2);
    Sum<0>(s, c, block);
    if (block + 1 < blocks) Sum<0>(s, c, block + 1);
  }
}

// The second: scores of odd blocks, whose softmax runs beside the sum over the even block before.
__device__ inline void ConsumeOdd(Shared& s, Consumer& c, int tokens, int blocks, float scale_log2) {
  int block = 1;
  for (; block < blocks; block += 2) {
    const int valid = AwaitAndClearTail<1>(s, block, tokens);
    TakeScores(s, c, block);
    const float2 largest = MaskedMaximum(c, valid);
    IssueSum<1>(s, c, block - 1);
    Softmax<1>(s, c, block, largest, scale_log2);
    Release<1>(s, c, block - 1);
    Sum<1>(s, c, block);
  }
  if (block == blocks) Sum<1>(s, c, block - 1);
}

}  // namespace conclave::sm90::mla

#endif  // CONCLAVE_MOE_KERNELS_CUDA_SM90_BF16_MLA_CONSUMER_CUH_
