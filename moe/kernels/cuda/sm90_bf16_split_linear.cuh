// Dense products of many rows over bfloat16 weights by wgmma, in tc_linear.cuh's order of accumulation and with its
// bits: an instruction of 16 columns rounds alike in either form, which bf16_rows_test holds against every Hopper GPU
// it runs on.
//
// Weights are the first operand, rows the second. With two terms a row's high and low parts are neighbouring rows of
// the operand, so that weights are read once and a thread has both sums of an output.
#ifndef CONCLAVE_MOE_KERNELS_CUDA_SM90_BF16_SPLIT_LINEAR_CUH_
#define CONCLAVE_MOE_KERNELS_CUDA_SM90_BF16_SPLIT_LINEAR_CUH_

#include <cuda_bf16.h>

#include "moe/kernels/cuda/dense_linear.h"
#include "moe/kernels/cuda/overlap.cuh"
#include "moe/kernels/cuda/sm90_fp8_mainloop.cuh"
#include "moe/kernels/cuda/sm90_wgmma_bf16.cuh"

namespace conclave::sm90::split {

using conclave::cuda::SplitLinear;

inline constexpr int kSlices = 8, kSliceBlock = 128;  // tc_linear.cuh's
inline constexpr int kStageK = 64;                    // 128 bytes
inline constexpr int kOperandRows = 128;              // of a tile

// A tile has kHalves · 128 features.
template <int kHalves>
struct Stage {
  static constexpr int kHalfBytes = kHalfFeatures * 128;
  static constexpr int kBytes = kHalves * kHalfBytes + kOperandRows * 128;
  static constexpr int kStages = (kSharedBytesMax - 2048) / (kBytes + 16);
};

// Where a thread stands in the ring of stages.
template <int kHalves>
struct Ring {
  uint32_t stages, full, empty;
  int index = 0;
  uint32_t phase = 0;

  __device__ void Advance() {
    if (++index == Stage<kHalves>::kStages) {
      index = 0;
      phase ^= 1;
    }
  }
  __device__ uint32_t stage() const { return stages + index * Stage<kHalves>::kBytes; }
};

template <int kHalves>
__device__ inline void ProduceTile(Ring<kHalves>& ring, const CUtensorMap& weights, const CUtensorMap& rows,
                                   int feature, int half_step, int operand_row, int blocks) {
  for (int slice = 0; slice < kSlices; ++slice) {
    for (int step = 2 * slice; step < 2 * blocks; step += step % 2 == 0 ? 1 : 2 * kSlices - 1) {
      const int k = step * kStageK;
      const uint32_t full = ring.full + 8 * ring.index, stage = ring.stage();
      BarrierWaitAt(ring.empty + 8 * ring.index, ring.phase ^ 1);
      BarrierArriveExpectAt(full, Stage<kHalves>::kBytes);
#pragma unroll
      for (int half = 0; half < kHalves; ++half) {
        CopyTensor2dAt(&weights, full, stage + half * Stage<kHalves>::kHalfBytes, k, feature + half * half_step,
                       kEvictNormal);
      }
      CopyTensor2dAt(&rows, full, stage + kHalves * Stage<kHalves>::kHalfBytes, k, operand_row, kEvictLast);
      ring.Advance();
    }
  }
}

// acc = the sums of one slice of `steps` stages. One stage's instructions stay in flight.
template <int kHalves>
__device__ inline void ConsumeSlice(Ring<kHalves>& ring, int steps, float (&acc)[kHalves][kOperandRows / 2]) {
  const int warpgroup = __shfl_sync(~0u, threadIdx.x / 128, 0);
  uint32_t in_flight = 0;
  for (int step = 0; step < steps; ++step) {
    const uint64_t a = OperandDescriptorAt(ring.stage() + warpgroup * 64 * 128);
    const uint64_t b = OperandDescriptorAt(ring.stage() + kHalves * Stage<kHalves>::kHalfBytes);
    BarrierWaitAt(ring.full + 8 * ring.index, ring.phase);
    WgmmaFence();
#pragma unroll
    for (int half = 0; half < kHalves; ++half) {
#pragma unroll
      for (int i = 0; i < kStageK / 16; ++i) {
        WgmmaBf16<kOperandRows>::Run(acc[half], a + half * (Stage<kHalves>::kHalfBytes >> 4) + 2 * i, b + 2 * i,
                                     step + i > 0);
      }
    }
    WgmmaCommit();
    WgmmaWait<1>();
    if (step > 0 && threadIdx.x % 32 == 0) BarrierArriveHere(in_flight);
    in_flight = ring.empty + 8 * ring.index;
    ring.Advance();
  }
  WgmmaWait<0>();
  if (threadIdx.x % 32 == 0) BarrierArriveHere(in_flight);
#pragma unroll
  for (int half = 0; half < kHalves; ++half) {
#pragma unroll
    for (int i = 0; i < kOperandRows / 2; ++i) WgmmaTouch(acc[half][i]);
  }
}

// Sums of a thread: with two terms, those of both are one.
template <int kTerms>
inline constexpr int kTotals = kOperandRows / 2 / kTerms;

// Features down, rows across: acc[4 j + 2 h + n] is operand row 8 j + 2 (lane % 4) + n and feature lane / 4 + 8 h of a
// warp's 16 (WgmmaE4M3's layout). `row` and `feature` are the tile's first.
template <typename Out, int kHalves, int kTerms>
__device__ inline void StoreTile(const float (&total)[kHalves][kTotals<kTerms>], const SplitLinear& p, int row,
                                 int feature) {
  const int lane = threadIdx.x % 32;
  row += 2 / kTerms * (lane % 4);
  feature += 16 * (threadIdx.x / 32) + lane / 4;
  Out* at = static_cast<Out*>(p.out) + row * p.out_stride + feature;
#pragma unroll
  for (int j = 0; j < kOperandRows / 8; ++j) {
#pragma unroll
    for (int n = 0; n < 2 / kTerms; ++n) {
      if (row + n >= p.rows) continue;
#pragma unroll
      for (int half = 0; half < kHalves; ++half) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          const int column = half * kHalfFeatures + 8 * h;
          if (feature + column >= p.features) continue;
          at[n * p.out_stride + column] = Out(total[half][(4 * j + 2 * h + n) / kTerms]);
        }
      }
    }
    row += 8 / kTerms;
    at += 8 / kTerms * p.out_stride;
  }
}

// A tile whose halves are gate and up of the same features: silu(gate) · up as the operand of the next product, a row's
// high part and its low part.
__device__ inline void StoreSwiGlu(const float (&total)[2][kTotals<2>], const SplitLinear& p, int row, int feature) {
  const int lane = threadIdx.x % 32;
  row += lane % 4;
  feature += 16 * (threadIdx.x / 32) + lane / 4;
  __nv_bfloat16* at = static_cast<__nv_bfloat16*>(p.out) + 2 * row * p.out_stride + feature;
#pragma unroll
  for (int j = 0; j < kOperandRows / 8; ++j) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      if (row >= p.rows || feature + 8 * h >= p.features) continue;
      const float gate = total[0][2 * j + h], up = total[1][2 * j + h];
      const float value = gate / (1.0f + expf(-gate)) * up;  // SiluMul's
      const __nv_bfloat16 high = __float2bfloat16_rn(value);
      at[8 * h] = high;
      at[p.out_stride + 8 * h] = __float2bfloat16_rn(value - __bfloat162float(high));
    }
    row += 4;
    at += 8 * p.out_stride;
  }
}

template <int kHalves, int kTerms, bool kSwiGlu>
__global__ void __launch_bounds__(kThreads, 1)
    SplitKernel(const __grid_constant__ CUtensorMap weights, const __grid_constant__ CUtensorMap rows,
                const __grid_constant__ SplitLinear p) {
  extern __shared__ uint8_t unaligned[];
  static_assert(!kSwiGlu || (kHalves == 2 && kTerms == 2));
  constexpr int kStages = Stage<kHalves>::kStages, kRows = kOperandRows / kTerms;
  constexpr int kFeatures = kSwiGlu ? kHalfFeatures : kHalves * kHalfFeatures;
  const uint32_t shared = (SharedAddress(unaligned) + 1023) / 1024 * 1024,
                 barriers = shared + kStages * Stage<kHalves>::kBytes;
  Ring<kHalves> ring{shared, barriers, barriers + 8 * kStages};
  if (threadIdx.x == 0) {
    for (int i = 0; i < kStages; ++i) {
      BarrierInitAt(ring.full + 8 * i, 1);
      BarrierInitAt(ring.empty + 8 * i, kConsumers / 32);
    }
    FenceBarrierInit();
  }
  __syncthreads();
  conclave::cuda::FollowKernelsBefore();
  const int row_tiles = (p.rows + kRows - 1) / kRows, feature_tiles = (p.features + kFeatures - 1) / kFeatures;
  const int blocks = p.cols / kSliceBlock;
  if (threadIdx.x >= kConsumers) {
    RegistersDown<40>();
    if (threadIdx.x != kConsumers) return;
    for (int number = blockIdx.x; number < row_tiles * feature_tiles; number += gridDim.x) {
      const TilePlace place = PlaceOf(number, row_tiles, feature_tiles);
      ProduceTile(ring, weights, rows, place.feature_tile * kFeatures, kSwiGlu ? p.features : kHalfFeatures,
                  place.row_tile * kOperandRows, blocks);
    }
    return;
  }
  RegistersUp<232>();
  for (int number = blockIdx.x; number < row_tiles * feature_tiles; number += gridDim.x) {
    const TilePlace place = PlaceOf(number, row_tiles, feature_tiles);
    float total[kHalves][kTotals<kTerms>], acc[kHalves][kOperandRows / 2];
#pragma unroll
    for (int half = 0; half < kHalves; ++half) {
#pragma unroll
      for (int i = 0; i < kTotals<kTerms>; ++i) total[half][i] = -0.0f;  // that and x is x, whatever x
    }
#pragma unroll 1
    for (int slice = 0; slice < min(kSlices, blocks); ++slice) {
      ConsumeSlice<kHalves>(ring, 2 * ((blocks - slice + kSlices - 1) / kSlices), acc);
#pragma unroll
      for (int half = 0; half < kHalves; ++half) {
#pragma unroll
        for (int i = 0; i < kTotals<kTerms>; ++i) {
          total[half][i] += kTerms == 2 ? acc[half][2 * i] + acc[half][2 * i + 1] : acc[half][i];
        }
      }
    }
    // The sum of an empty slice is 0, which makes a 0 of -0.
    const float empty = blocks < kSlices ? 0.0f : -0.0f;
#pragma unroll
    for (int half = 0; half < kHalves; ++half) {
#pragma unroll
      for (int i = 0; i < kTotals<kTerms>; ++i) total[half][i] += empty;
    }
    const int row = place.row_tile * kRows, feature = place.feature_tile * kFeatures;
    if constexpr (kSwiGlu) {
      StoreSwiGlu(total, p, row, feature);
    } else if (p.bf16_out) {
      StoreTile<__nv_bfloat16, kHalves, kTerms>(total, p, row, feature);
    } else {
      StoreTile<float, kHalves, kTerms>(total, p, row, feature);
    }
  }
}

}  // namespace conclave::sm90::split

#endif  // CONCLAVE_MOE_KERNELS_CUDA_SM90_BF16_SPLIT_LINEAR_CUH_
