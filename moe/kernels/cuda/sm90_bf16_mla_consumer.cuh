// The two warpgroups of MLA decode on Hopper that multiply and take softmax: see sm90_bf16_mla_decode.cuh.
#ifndef CONCLAVE_MOE_KERNELS_CUDA_SM90_BF16_MLA_CONSUMER_CUH_
#define CONCLAVE_MOE_KERNELS_CUDA_SM90_BF16_MLA_CONSUMER_CUH_

#include <cuda_bf16.h>

#include "moe/kernels/cuda/sm90_bf16_mla_stages.cuh"
#include "moe/kernels/cuda/sm90_wgmma_bf16.cuh"

namespace conclave::sm90::mla {

// What a consumer thread holds: for its two heads, row and row + 8 of the tile, its part of the sum of 256 columns, and
// of the denominator over the columns of this thread in the blocks of this warpgroup.
struct Consumer {
  float sum[128];
  float scores[32];
  float denominator[2];
  uint32_t weights[16];  // of one block: bfloat16 pairs, [column / 8][head]
  int lane, row;
  int first = 0;  // blocks of all work before
};

__device__ inline void AwaitPiece(Shared& s, Place at, int piece) { BarrierWait(&s.full[at.stage][piece], at.phase); }

// The latents past the last token, which the copy engine brings as they are, may be anything, NaN too: times a weight
// of zero they must be zero.
template <int kWarpgroup>
__device__ inline void AwaitAndClearTail(Shared& s, Place at, int valid) {
  for (int piece = 0; piece < kPieces - 1; ++piece) AwaitPiece(s, at, piece);
  for (int i = threadIdx.x % 128; i < (kBlockTokens - valid) * 64; i += 128) {
    *reinterpret_cast<uint4*>(at.Panel(s, i / 8 % 8) + (valid + i / 64) * 128 + i % 8 * 16) = make_uint4(0, 0, 0, 0);
  }
  FenceSharedForAsync();
  NamedBarrier(1 + kWarpgroup, 128);
}

// Waits for all products, and lets the producer overwrite this warpgroup's columns of a block that is summed: piece by
// piece, or as one half.
template <int kWarpgroup, bool kByHalf>
__device__ inline void Free(Shared& s, Consumer& c, Place at) {
  WgmmaWait<0>();
#pragma unroll
  for (int i = 0; i < 128; ++i) WgmmaTouch(c.sum[i]);
  if (c.lane != 0) return;
#pragma unroll
  for (int i = 0; i < (kByHalf ? 1 : kHalfPieces); ++i) BarrierArrive(&s.empty[at.stage][kHalfPieces * kWarpgroup + i]);
  BarrierArrive(&s.empty[at.stage][kPieces - 1]);
}

// What the rows' maxima were before a block, and how the sum shrank at the block before: the other warpgroup's.
struct Before {
  float maximum[2] = {-INFINITY, -INFINITY};
  float shrink[2] = {1.0f, 1.0f};
};

__device__ inline Before AwaitBefore(Shared& s, const Consumer& c, Place at) {
  BarrierWait(&s.maxima[at.stage], at.phase);
  Before before;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    before.maximum[h] = LoadShared(SharedAddress(&s.maximum[c.row + 8 * h]));
    before.shrink[h] = LoadShared(SharedAddress(&s.shrink[at.stage][c.row + 8 * h]));
  }
  return before;
}

// Issues scores = query · keysᵀ of a block, piece after piece as they arrive, or half after half: this warpgroup's own
// columns first, for they were free first.
template <int kWarpgroup, bool kByHalf>
__device__ inline void IssueScores(Shared& s, Consumer& c, Place at) {
  // Hidden from the compiler, which would keep 36 descriptors in registers that it does not have.
  uint64_t query = OperandDescriptor(s.query), keys = OperandDescriptor(at.Panel(s, 0));
  asm volatile("" : "+l"(query), "+l"(keys));
#pragma unroll
  for (int i = 0; i < 32; ++i) WgmmaTouch(c.scores[i]);
#pragma unroll
  for (int i = 0; i < kPanels; ++i) {
    const int panel = i < 8 ? i ^ 4 * kWarpgroup : i;
    if (i % (kByHalf ? 4 : kPiecePanels) == 0) {
      AwaitPiece(s, at, panel / kPiecePanels);
      WgmmaFence();
    }
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      const int from = panel * (kPanelBytes >> 4) + 2 * step;
      WgmmaBf16<64>::Run(c.scores, query + from, keys + from, i + step > 0);
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

// The largest of the thread's scores of row 0 or 8.
__device__ __forceinline__ float LargestHere(const float (&scores)[32], int h) {
  float of_four[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    of_four[i] = fmaxf(fmaxf(scores[8 * i + 2 * h], scores[8 * i + 2 * h + 1]),
                       fmaxf(scores[8 * i + 4 + 2 * h], scores[8 * i + 5 + 2 * h]));
  }
  return fmaxf(fmaxf(of_four[0], of_four[1]), fmaxf(of_four[2], of_four[3]));
}

// Scores past the last token become -inf.
__device__ inline void Mask(Consumer& c, int valid) {
  if (valid < kBlockTokens) [[unlikely]] {
#pragma unroll
    for (int i = 0; i < 32; ++i) {
      if (i / 4 * 8 + c.lane % 4 * 2 + i % 2 >= valid) c.scores[i] = -INFINITY;
    }
  }
}

// How far scores may exceed the row's maximum, as a power of two, before the maximum moves and the sum shrinks: weights
// up to 2^8 are as exact as weights up to 1, and the sum is rarely touched.
inline constexpr float kSlack = 8.0f;

// The block's maximum follows from that of the block before, and is published at once: the other warpgroup's next block
// waits for it, not for the weights. Returns the maxima of the thread's two rows and how their sums shrink, and takes
// its denominator along. Where no row of the warp moves its maximum, which is nearly always, its four lanes need not
// exchange theirs.
__device__ inline float4 UpdateMaximum(Shared& s, Consumer& c, Place at, const Before& before, float scale_log2) {
  float largest[2] = {LargestHere(c.scores, 0) * scale_log2, LargestHere(c.scores, 1) * scale_log2};
  float maximum[2] = {before.maximum[0], before.maximum[1]}, shrink[2] = {1.0f, 1.0f};
  __syncwarp();  // all four lanes of a row have read its maximum
  if (__any_sync(~0u, largest[0] - maximum[0] > kSlack || largest[1] - maximum[1] > kSlack)) [[unlikely]] {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      largest[h] = fmaxf(largest[h], __shfl_xor_sync(~0u, largest[h], 1));
      largest[h] = fmaxf(largest[h], __shfl_xor_sync(~0u, largest[h], 2));
      if (largest[h] - maximum[h] > kSlack) maximum[h] = largest[h];
      shrink[h] = Exp2(before.maximum[h] - maximum[h]);
      if (c.lane % 4 == 0) StoreShared(SharedAddress(&s.maximum[c.row + 8 * h]), maximum[h]);
    }
  }
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    if (c.lane % 4 == 0) StoreShared(SharedAddress(&s.shrink[at.stage][c.row + 8 * h]), shrink[h]);
    c.denominator[h] = c.denominator[h] * before.shrink[h] * shrink[h];
  }
  BarrierArrive(&s.maxima[at.stage]);
  return make_float4(maximum[0], maximum[1], shrink[0], shrink[1]);
}

// Scores → weights, in registers.
__device__ inline void TakeWeights(Consumer& c, float4 maximum, float scale_log2) {
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
__device__ inline void PublishWeights(Shared& s, const Consumer& c, Place at) {
  NamedBarrier(1 + kWarpgroup, 128);  // the tensor cores of all four warps are done with the rotated part
  // Four 8x8 matrices a store: rows 0 and 8 of columns j and j + 1. A lane names the row of one of them.
  const int row = c.row - c.lane / 4 + c.lane % 16;
  uint8_t* of_row = at.Panel(s, kPanels - 1) + row * 128;
#pragma unroll
  for (int j = 0; j < 8; j += 2) StoreMatrices(of_row + ((j + c.lane / 16) ^ row % 8) * 16, &c.weights[2 * j]);
  FenceSharedForAsync();
  BarrierArrive(&s.weights[at.stage]);
}

__device__ inline void ShrinkSum(Consumer& c, const float (&shrink)[2]) {
#pragma unroll
  for (int i = 0; i < 128; ++i) WgmmaTouch(c.sum[i]);
  if (__any_sync(~0u, shrink[0] != 1.0f || shrink[1] != 1.0f)) [[unlikely]] {
#pragma unroll
    for (int i = 0; i < 128; ++i) c.sum[i] *= shrink[i / 2 % 2];
  }
#pragma unroll
  for (int i = 0; i < 128; ++i) WgmmaTouch(c.sum[i]);
}

// Columns [128 half, 128 half + 128) of a thread's sum. Where widening warps leave a kernel no more than 128 registers
// a thread to start with, the compiler takes no product of 256 columns; bits are the same.
__device__ __forceinline__ float (&HalfOf(float (&sum)[128], int half))[64] {
  return reinterpret_cast<float(&)[64]>(sum[64 * half]);
}

// Issues sum = sum · shrink + weights · latents of a block of the other warpgroup, this one's columns.
template <int kWarpgroup, bool kByHalf>
__device__ inline void IssueSumOfOther(Shared& s, Consumer& c, Place at) {
  BarrierWait(&s.weights[at.stage], at.phase);
  const uint32_t of_row = SharedAddress(&s.shrink[at.stage][c.row]);
  const float shrink[2] = {LoadShared(of_row), LoadShared(of_row + 8 * sizeof(float))};
  ShrinkSum(c, shrink);
  const uint64_t weights = OperandDescriptor(at.Panel(s, kPanels - 1));
  const uint64_t latents = TransposedOperandDescriptor(at.Panel(s, 4 * kWarpgroup), kPanelBytes);
  WgmmaFence();
#pragma unroll
  for (int step = 0; step < kBlockTokens / 16; ++step) {
    if constexpr (kByHalf) {
      WgmmaBf16Transposed<128>::Run(HalfOf(c.sum, 0), weights + 2 * step, latents + 128 * step, 1);
      WgmmaBf16Transposed<128>::Run(HalfOf(c.sum, 1), weights + 2 * step, latents + 128 * step + 2 * (kPanelBytes >> 4),
                                    1);
    } else {
      WgmmaBf16Transposed<256>::Run(c.sum, weights + 2 * step, latents + 128 * step, 1);
    }
  }
  WgmmaCommit();
}

// The same of a block whose weights this warpgroup has in registers.
template <int kWarpgroup, bool kByHalf>
__device__ inline void IssueSumOfOwn(Shared& s, Consumer& c, Place at, float4 maximum) {
  const float shrink[2] = {maximum.z, maximum.w};
  ShrinkSum(c, shrink);
  const uint64_t latents = TransposedOperandDescriptor(at.Panel(s, 4 * kWarpgroup), kPanelBytes);
  WgmmaFence();
#pragma unroll
  for (int step = 0; step < kBlockTokens / 16; ++step) {
    if constexpr (kByHalf) {
      WgmmaBf16TransposedFromRegisters(HalfOf(c.sum, 0), &c.weights[4 * step], latents + 128 * step);
      WgmmaBf16TransposedFromRegisters(HalfOf(c.sum, 1), &c.weights[4 * step],
                                       latents + 128 * step + 2 * (kPanelBytes >> 4));
    } else {
      WgmmaBf16TransposedFromRegisters(c.sum, &c.weights[4 * step], latents + 128 * step);
    }
  }
  WgmmaCommit();
}

__device__ inline void FreeQuery(Shared& s) { BarrierArrive(&s.query_empty); }

// Scores, weights and sum of a block, after the sum over the one before, which is the other warpgroup's: that sum runs
// beside this block's softmax, as do the scores of the other's next block. kFirst: there is none before. kByHalf:
// blocks come by halves and with their ends cleared, as from a cache in eight bits.
template <int kWarpgroup, bool kByHalf, bool kFirst>
__device__ inline void TakeBlock(Shared& s, Consumer& c, int block, int tokens, int blocks, float scale_log2) {
  const Place at(c.first + block), other(c.first + block - 1);
  const int valid = min(kBlockTokens, tokens - block * kBlockTokens);
  if constexpr (!kByHalf) {
    if (valid < kBlockTokens) [[unlikely]] AwaitAndClearTail<kWarpgroup>(s, at, valid);
  }
  IssueScores<kWarpgroup, kByHalf>(s, c, at);
  if constexpr (!kFirst) IssueSumOfOther<kWarpgroup, kByHalf>(s, c, other);
  Before before;  // read while scores are multiplied: shared memory answers late then
  if constexpr (!kFirst) before = AwaitBefore(s, c, other);
  WgmmaWait<kFirst ? 0 : 1>();
#pragma unroll
  for (int i = 0; i < 32; ++i) WgmmaTouch(c.scores[i]);
  if (block + 2 >= blocks) FreeQuery(s);
  Mask(c, valid);
  const float4 maximum = UpdateMaximum(s, c, at, before, scale_log2);
  TakeWeights(c, maximum, scale_log2);
  if constexpr (!kFirst) Free<kWarpgroup, kByHalf>(s, c, other);
  IssueSumOfOwn<kWarpgroup, kByHalf>(s, c, at, maximum);
  PublishWeights<kWarpgroup>(s, c, at);
  Free<kWarpgroup, kByHalf>(s, c, at);
}

template <int kWarpgroup, bool kByHalf>
__device__ inline void SumOfLast(Shared& s, Consumer& c, int blocks) {
  const Place last(c.first + blocks - 1);
  IssueSumOfOther<kWarpgroup, kByHalf>(s, c, last);
  Free<kWarpgroup, kByHalf>(s, c, last);
}

// The first warpgroup: scores of even blocks.
template <bool kByHalf>
__device__ inline void ConsumeEven(Shared& s, Consumer& c, int tokens, int blocks, float scale_log2) {
  TakeBlock<0, kByHalf, true>(s, c, 0, tokens, blocks, scale_log2);
  for (int block = 2; block < blocks; block += 2) TakeBlock<0, kByHalf, false>(s, c, block, tokens, blocks, scale_log2);
  if (blocks % 2 == 0) SumOfLast<0, kByHalf>(s, c, blocks);
}

// The second: scores of odd blocks.
template <bool kByHalf>
__device__ inline void ConsumeOdd(Shared& s, Consumer& c, int tokens, int blocks, float scale_log2) {
  if (blocks < 2) FreeQuery(s);
  for (int block = 1; block < blocks; block += 2) TakeBlock<1, kByHalf, false>(s, c, block, tokens, blocks, scale_log2);
  if (blocks % 2 == 1) SumOfLast<1, kByHalf>(s, c, blocks);
}

}  // namespace conclave::sm90::mla

#endif  // CONCLAVE_MOE_KERNELS_CUDA_SM90_BF16_MLA_CONSUMER_CUH_
