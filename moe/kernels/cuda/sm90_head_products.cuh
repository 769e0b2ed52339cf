// A block of threads owns 128 features of one head: it brings their weights to shared memory once, widened to bfloat16
// (which holds every e4m3 exactly), and walks all rows. Weights are the wgmma's first operand, rows its second.
#ifndef CONCLAVE_MOE_KERNELS_CUDA_SM90_HEAD_PRODUCTS_CUH_
#define CONCLAVE_MOE_KERNELS_CUDA_SM90_HEAD_PRODUCTS_CUH_

#include <cuda_bf16.h>
#include <cuda_fp8.h>

#include "moe/kernels/cuda/head_products.h"
#include "moe/kernels/cuda/overlap.cuh"
#include "moe/kernels/cuda/sm90_fp8_grouped_ffn.cuh"
#include "moe/kernels/cuda/sm90_wgmma_bf16.cuh"

namespace conclave::sm90::heads {

using conclave::cuda::HeadProducts;

inline constexpr int kFeatures = 128;               // of a block of threads, 64 a warpgroup
inline constexpr int kPanelBytes = kFeatures * 128;  // 64 columns of the weights
inline constexpr int kThreads = kConsumers + 32;

template <int kTokens>
struct Sizes {
  static constexpr int kRowPanelBytes = kTokens * 128;
  static constexpr int kStageBytes = 2 * kRowPanelBytes;  // a block of 128 along K
  static constexpr int kStages = kTokens == 128 ? 2 : 4;
  static constexpr int Bytes(int k_blocks) { return 1024 + k_blocks * 2 * kPanelBytes + kStages * (kStageBytes + 16); }
};

// Two e4m3 as two bfloat16.
__device__ __forceinline__ uint32_t Widen(uint32_t two) {
  const __half2 halves(__nv_cvt_fp8x2_to_halfraw2(static_cast<__nv_fp8x2_storage_t>(two), __NV_E4M3));
  const float2 floats = __half22float2(halves);
  const __nv_bfloat162 pair = __floats2bfloat162_rn(floats.x, floats.y);
  return *reinterpret_cast<const uint32_t*>(&pair);
}

// 16 weights of four bytes each way to their two places of 16 bytes in a swizzled row.
__device__ inline void StoreWidened(uint8_t* panels, int row, int chunk, uint4 sixteen) {
  const uint32_t words[4] = {sixteen.x, sixteen.y, sixteen.z, sixteen.w};
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const uint32_t low = words[2 * half], high = words[2 * half + 1];
    const int place = 2 * chunk + half;  // of 8 bfloat16, 16 to a block of K
    uint8_t* to = panels + place / 8 * kPanelBytes + row * 128 + (place % 8 ^ row % 8) * 16;
    *reinterpret_cast<uint4*>(to) =
        make_uint4(Widen(low & 0xffffu), Widen(low >> 16), Widen(high & 0xffffu), Widen(high >> 16));
  }
}

// The consumers together.
__device__ inline void BringWeights(uint8_t* weights, const HeadProducts& p, int64_t first_row) {
  const auto* from = static_cast<const uint8_t*>(p.w) + first_row * p.cols;
  for (int block = 0; block < p.cols / kBlockK; ++block) {
    uint4 loaded[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int index = i * kConsumers + threadIdx.x;
      loaded[i] =
          __ldg(reinterpret_cast<const uint4*>(from + int64_t{index / 8} * p.cols + block * kBlockK + index % 8 * 16));
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int index = i * kConsumers + threadIdx.x;
      StoreWidened(weights + block * 2 * kPanelBytes, index / 8, index % 8, loaded[i]);
    }
  }
  FenceSharedForAsync();
  NamedBarrier(1, kConsumers);
}

template <int kTokens>
__device__ inline void ProduceRows(const CUtensorMap& x, uint32_t stages, uint32_t full, uint32_t empty,
                                   const HeadProducts& p, int head) {
  using Sizes = Sizes<kTokens>;
  int stage = 0;
  uint32_t phase = 0;
  for (int row = blockIdx.y * kTokens; row < p.rows; row += gridDim.y * kTokens) {
    for (int block = 0; block < p.cols / kBlockK; ++block) {
      BarrierWaitAt(empty + 8 * stage, phase ^ 1);
      BarrierArriveExpectAt(full + 8 * stage, Sizes::kStageBytes);
      for (int panel = 0; panel < 2; ++panel) {
        CopyTensor3dAt(&x, full + 8 * stage, stages + stage * Sizes::kStageBytes + panel * Sizes::kRowPanelBytes,
                       block * kBlockK + panel * 64, head, row, kEvictNormal);
      }
      if (++stage == Sizes::kStages) {
        stage = 0;
        phase ^= 1;
      }
    }
  }
}

template <int kTokens>
__global__ void __launch_bounds__(kThreads, 1)
    HeadKernel(const __grid_constant__ CUtensorMap x, const __grid_constant__ HeadProducts p) {
  using Sizes = Sizes<kTokens>;
  extern __shared__ uint8_t unaligned[];
  auto* weights = reinterpret_cast<uint8_t*>((reinterpret_cast<uintptr_t>(unaligned) + 1023) / 1024 * 1024);
  const int k_blocks = p.cols / kBlockK, tiles = p.features / kFeatures;
  const int head = blockIdx.x / tiles, feature = blockIdx.x % tiles * kFeatures;
  const uint32_t stages = SharedAddress(weights) + k_blocks * 2 * kPanelBytes;
  const uint32_t full = stages + Sizes::kStages * Sizes::kStageBytes, empty = full + 8 * Sizes::kStages;
  if (threadIdx.x == 0) {
    for (int i = 0; i < Sizes::kStages; ++i) {
      BarrierInitAt(full + 8 * i, 1);
      BarrierInitAt(empty + 8 * i, kConsumers / 32);
    }
    FenceBarrierInit();
  }
  __syncthreads();
  conclave::cuda::LetNextKernelStart();
  if (threadIdx.x >= kConsumers) {
    if (threadIdx.x != kConsumers) return;
    conclave::cuda::AwaitKernelsBefore();
    ProduceRows<kTokens>(x, stages, full, empty, p, head);
    return;
  }
  const int64_t first_row = p.w_begin + head * p.w_step + feature;
  BringWeights(weights, p, first_row);
  conclave::cuda::AwaitKernelsBefore();
  const float* scales = p.w_scales + first_row / 128 * k_blocks;
  const int warpgroup = __shfl_sync(~0u, threadIdx.x / 128, 0);
  const uint32_t of_warpgroup = SharedAddress(weights) + warpgroup * 64 * 128;
  int stage = 0;
  uint32_t phase = 0;
  for (int row = blockIdx.y * kTokens; row < p.rows; row += gridDim.y * kTokens) {
    float acc[2][kTokens / 2];
#pragma unroll
    for (int i = 0; i < kTokens / 2; ++i) acc[0][i] = 0.0f;
    for (int block = 0; block < k_blocks; ++block) {
      const float scale = __ldg(scales + block);
      float partial[kTokens / 2];
      BarrierWaitAt(full + 8 * stage, phase);
#pragma unroll
      for (int i = 0; i < kTokens / 2; ++i) WgmmaTouch(partial[i]);
      WgmmaFence();
#pragma unroll
      for (int panel = 0; panel < 2; ++panel) {
        const uint64_t a = OperandDescriptorAt(of_warpgroup + (2 * block + panel) * kPanelBytes);
        const uint64_t b = OperandDescriptorAt(stages + stage * Sizes::kStageBytes + panel * Sizes::kRowPanelBytes);
#pragma unroll
        for (int step = 0; step < 4; ++step)
          WgmmaBf16<kTokens>::Run(partial, a + 2 * step, b + 2 * step, panel + step > 0);
      }
      WgmmaCommit();
      WgmmaWait<0>();
#pragma unroll
      for (int i = 0; i < kTokens / 2; ++i) WgmmaTouch(partial[i]);
      if (threadIdx.x % 32 == 0) BarrierArriveHere(empty + 8 * stage);
#pragma unroll
      for (int i = 0; i < kTokens / 2; ++i) acc[0][i] = __fmaf_rn(partial[i], scale, acc[0][i]);
      if (++stage == Sizes::kStages) {
        stage = 0;
        phase ^= 1;
      }
    }
    const Tile tile{0, 0, row, min(kTokens, p.rows - row)};
    const int half_features[2] = {feature, 0};
    StoreBf16<kTokens, 1>(acc, tile, half_features, p.out_stride,
                          static_cast<__nv_bfloat16*>(p.out) + head * p.out_batch);
  }
}

}  // namespace conclave::sm90::heads

#endif  // CONCLAVE_MOE_KERNELS_CUDA_SM90_HEAD_PRODUCTS_CUH_
