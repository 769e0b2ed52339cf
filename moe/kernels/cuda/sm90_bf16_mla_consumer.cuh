// The two warpgroups of MLA decode on Hopper that multiply and take softmax: see sm90_bf16_mla_decode.cuh.
#ifndef CONCLAVE_MOE_KERNELS_CUDA_SM90_BF16_MLA_CONSUMER_CUH_
#define CONCLAVE_MOE_KERNELS_CUDA_SM90_BF16_MLA_CONSUMER_CUH_

#include <cuda_bf16.h>

#include "moe/kernels/cuda/sm90_bf16_mla_stages.cuh"
#include "moe/kernels/cuda/sm90_wgmma_bf16.cuh"

namespace conclave::sm90::mla {

// What a consumer thread holds: for its two heads, row and row + 8 of the tile, its part of the sum of 256 columns, and of
// the denominator over the columns of this thread in the blocks of this warpgroup.
struct Consumer {
  float sum[128];
  float scores[32];
  float denominator[2];
  uint32_t weights[16];  // of one block: bfloat16 pairs, [column / 8][head]
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

// The block's maximum follows from that of the block before, and is published at once: the other warpgroup's next block
// waits for it, not for the weights. Returns the maxima of the thread's two rows, and takes its denominator along.
__device__ inline float2 UpdateMaximum(Shared& s, Consumer& c, int block, float2 largest, float scale_log2) {
  if (block > 0) BarrierWait(&s.maxima[(block - 1) % kStages], (block - 1) / kStages & 1);
  float maximum[2];
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const float before = s.maximum[c.row + 8 * h];
    const float of_block = (h == 0 ? largest.x : largest.y) * scale_log2;
    maximum[h] = of_block - before > kSlack ? of_block : before;
    const float shrink = Exp2(before - maximum[h]);
    if (block > 0) c.denominator[h] *= s.shrink[(block - 1) % kStages][c.row + 8 * h];  // the other warpgroup's
    c.denominator[h] *= shrink;
    __syncwarp();  // all four lanes of a row have read its maximum
    if (c.lane % 4 == 0) {
      s.maximum[c.row + 8 * h] = maximum[h];
      s.shrink[block % kStages][c.row + 8 * h] = shrink;
    }
  }
  BarrierArrive(&s.maxima[block % kStages]);
  return make_float2(maximum[0], maximum[1]);
}

// Scores → weights, in registers.
__device__ inline void TakeWeights(Consumer& c, float2 maximum, float scale_log2) {
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const float minus = h == 0 ? -maximum.x : -maximum.y;
    float sums[2] = {0, 0};
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const float low = Exp2(__fmaf_rn(c.scores[4 * j + 2 * h], scale_log2, minus));
      const float high = Exp2(__fmaf_rn(c.scores[4 * j + 2 * h + 1], scale_log2, minus));
      sums[0] += low;
      sums[1] += high;
      const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
      c.weights[2 * j + h] = *reinterpret_cast<const uint32_t*>(&pair);
    }
    c.denominator[h] += sums[0] + sums[1];
  }
}

// Weights → shared memory, for both warpgroups.
template <int kWarpgroup>
__device__ inline void PublishWeights(Shared& s, const Consumer& c, int block) {
  NamedBarrier(1 + kWarpgroup, 128);  // the tensor cores of all four warps are done with the rotated part
  // Four 8x8 matrices a store: rows 0 and 8 of columns j and j + 1. A lane names the row of one of them.
  const int row = c.row - c.lane / 4 + c.lane % 16;
  uint8_t* of_row = s.Block(kPanels - 1, block) + row * 128;
#pragma unroll
  for (int j = 0; j < 8; j += 2) StoreMatrices(of_row + ((j + c.lane / 16) ^ row % 8) * 16, &c.weights[2 * j]);
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
    TakeWeights(c, UpdateMaximum(s, c, block, MaskedMaximum(c, valid), scale_log2), scale_log2);
    PublishWeights<0>(s, c, block);
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
    TakeWeights(c, UpdateMaximum(s, c, block, MaskedMaximum(c, valid), scale_log2), scale_log2);
    IssueSum<1>(s, c, block - 1);
    PublishWeights<1>(s, c, block);
    Release<1>(s, c, block - 1);
    Sum<1>(s, c, block);
  }
  if (block == blocks) Sum<1>(s, c, block - 1);
}

// The rows' denominators over all blocks. Every consumer thread calls it once.
template <int kWarpgroup>
__device__ inline float2 Denominators(Shared& s, const Consumer& c, int blocks) {
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    float of_row = c.denominator[h];
    if ((blocks - 1) % 2 != kWarpgroup) of_row *= s.shrink[(blocks - 1) % kStages][c.row + 8 * h];
    of_row += __shfl_xor_sync(~0u, of_row, 1);
    of_row += __shfl_xor_sync(~0u, of_row, 2);
    if (c.lane % 4 == 0) s.denominators[kWarpgroup][c.row + 8 * h] = of_row;
  }
  BarrierArrive(&s.denominators_full);
  BarrierWait(&s.denominators_full, 0);
  return make_float2(s.denominators[0][c.row] + s.denominators[1][c.row], s.denominators[0][c.row + 8] + s.denominators[1][c.row + 8]);
}

}  // namespace conclave::sm90::mla

#endif  // CONCLAVE_MOE_KERNELS_CUDA_SM90_BF16_MLA_CONSUMER_CUH_
