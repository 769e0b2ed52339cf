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

// The latents past the last token may be anything, NaN too: times a weight of zero they must be zero.
__device__ inline void ClearTail(uint8_t* stage, int valid) {
  const int thread = threadIdx.x % 128;
  for (int i = thread; i < (kBlockTokens - valid) * 64; i += 128) {
    const int panel = i / 8 % 8, token = valid + i / 64;
    *reinterpret_cast<uint4*>(stage + panel * kPanelBytes + token * 128 + i % 8 * 16) = make_uint4(0, 0, 0, 0);
  }
  FenceSharedForAsync();
}

// Issues scores = query · keysᵀ of a block, part after part as they arrive.
__device__ inline void IssueScores(Shared& s, Consumer& c, int block) {
  const int stage = block % kStages;
  // Hidden from the compiler, which would keep 36 descriptors in registers that it does not have.
  uint64_t query = OperandDescriptor(s.query), keys = OperandDescriptor(s.stages[stage]);
  asm volatile("" : "+l"(query), "+l"(keys));
#pragma unroll
  for (int i = 0; i < 32; ++i) WgmmaTouch(c.scores[i]);
#pragma unroll
  for (int panel = 0; panel < kPanels; ++panel) {
    if (panel % 4 == 0) {
      BarrierWait(&s.full[stage][panel / 4], block / kStages & 1);
      WgmmaFence();
    }
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      const int at = panel * (kPanelBytes >> 4) + 2 * step;
      WgmmaBf16<64>::Run(c.scores, query + at, keys + at, panel + step > 0);
    }
  }
  WgmmaCommit();
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

// Scores → weights in shared memory, with the row's new maximum, denominator and shrink.
template <int kWarpgroup>
__device__ inline void Softmax(Shared& s, Consumer& c, int block, int valid, float scale_log2) {
  const int stage = block % kStages;
#pragma unroll
  for (int i = 0; i < 32; ++i) WgmmaTouch(c.scores[i]);
  if (valid < kBlockTokens) {
#pragma unroll
    for (int i = 0; i < 32; ++i) {
      if (i / 4 * 8 + c.lane % 4 * 2 + i % 2 >= valid) c.scores[i] = -INFINITY;
    }
  }
  NamedBarrier(1 + kWarpgroup, 128);  // the tensor cores of all four warps are done with the rotated part
  float before[2], largest[2], sum[2];
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    before[h] = s.maximum[c.row + 8 * h];
    largest[h] = LargestOfRow(c.scores, h);
  }
  uint32_t weights[16];  // bfloat16 pairs: [j][h]
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    largest[h] = fmaxf(before[h], largest[h] * scale_log2);
    float sums[2] = {0, 0};
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const float low = Exp2(__fmaf_rn(c.scores[4 * j + 2 * h], scale_log2, -largest[h]));
      const float high = Exp2(__fmaf_rn(c.scores[4 * j + 2 * h + 1], scale_log2, -largest[h]));
      const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
      weights[2 * j + h] = *reinterpret_cast<const uint32_t*>(&pair);
      sums[0] += __low2float(pair);
      sums[1] += __high2float(pair);
    }
    sum[h] = sums[0] + sums[1];
  }
  // Four 8x8 matrices a store: rows 0 and 8 of columns j and j + 1. A lane names the row of one of them.
  const int row = c.row - c.lane / 4 + c.lane % 16;
  uint8_t* of_row = s.stages[stage] + (kPanels - 1) * kPanelBytes + row * 128;
#pragma unroll
  for (int j = 0; j < 8; j += 2) StoreMatrices(of_row + ((j + c.lane / 16) ^ row % 8) * 16, &weights[2 * j]);
  FenceSharedForAsync();
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    sum[h] += __shfl_xor_sync(~0u, sum[h], 1);
    sum[h] += __shfl_xor_sync(~0u, sum[h], 2);
  }
  __syncwarp();  // all four lanes of a row have read its maximum
  if (c.lane % 4 == 0) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const float shrink = Exp2(before[h] - largest[h]);
      s.maximum[c.row + 8 * h] = largest[h];
      s.shrink[stage][c.row + 8 * h] = shrink;
      s.denominator[c.row + 8 * h] = __fmaf_rn(s.denominator[c.row + 8 * h], shrink, sum[h]);
    }
  }
  BarrierArrive(&s.weights[stage]);
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
  const uint64_t weights = OperandDescriptor(s.stages[stage] + (kPanels - 1) * kPanelBytes);
  const uint64_t latents = TransposedOperandDescriptor(s.stages[stage] + 4 * kWarpgroup * kPanelBytes, kPanelBytes);
  WgmmaFence();
#pragma unroll
  for (int step = 0; step < kBlockTokens / 16; ++step) {
    WgmmaBf16Transposed<256>::Run(c.sum, weights + 2 * step, latents + 128 * step, 1);
  }
  WgmmaCommit();
}

template <int kWarpgroup>
__device__ inline void Release(Shared& s, const Consumer& c, int block) {
  if (c.lane != 0) return;
  BarrierArrive(&s.empty[block % kStages][kWarpgroup]);
  BarrierArrive(&s.empty[block % kStages][2]);
}

template <int kWarpgroup>
__device__ inline void Sum(Shared& s, Consumer& c, int block) {
  IssueSum<kWarpgroup>(s, c, block);
  WgmmaWait<0>();
#pragma unroll
  for (int i = 0; i < 128; ++i) WgmmaTouch(c.sum[i]);
  Release<kWarpgroup>(s, c, block);
}

// One block's tail, should it have one, is cleared before anybody multiplies with it.
template <int kWarpgroup>
__device__ inline int AwaitAndClearTail(Shared& s, int block, int tokens) {
  const int valid = min(kBlockTokens, tokens - block * kBlockTokens);
  if (valid < kBlockTokens) {
    for (int part = 0; part < kParts; ++part) BarrierWait(&s.full[block % kStages][part], block / kStages & 1);
    ClearTail(s.stages[block % kStages], valid);
    NamedBarrier(1 + kWarpgroup, 128);
  }
  return valid;
}

// The first warpgroup: scores of even blocks.
__device__ inline void ConsumeEven(Shared& s, Consumer& c, int tokens, int blocks, float scale_log2) {
  for (int block = 0; block < blocks; block += 2) {
    const int valid = AwaitAndClearTail<0>(s, block, tokens);
    IssueScores(s, c, block);
    WgmmaWait<0>();
    Softmax<0>(s, c, block, valid, scale_log2);
    Sum<0>(s, c, block);
    if (block + 1 < blocks) Sum<0>(s, c, block + 1);
  }
}

// The second: scores of odd blocks, whose softmax runs beside the sum over the even block before.
__device__ inline void ConsumeOdd(Shared& s, Consumer& c, int tokens, int blocks, float scale_log2) {
  int block = 1;
  for (; block < blocks; block += 2) {
    const int valid = AwaitAndClearTail<1>(s, block, tokens);
    IssueScores(s, c, block);
    WgmmaWait<0>();
    IssueSum<1>(s, c, block - 1);
    Softmax<1>(s, c, block, valid, scale_log2);
    WgmmaWait<0>();
    Release<1>(s, c, block - 1);
    Sum<1>(s, c, block);
  }
  if (block == blocks) Sum<1>(s, c, block - 1);
}

}  // namespace conclave::sm90::mla

#endif  // CONCLAVE_MOE_KERNELS_CUDA_SM90_BF16_MLA_CONSUMER_CUH_
