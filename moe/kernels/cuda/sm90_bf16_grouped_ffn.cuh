// The grouped product in bfloat16: weights are the wgmma's first operand and rows its second, and the tensor cores add up
// all of K. Shared by gate+up, whose halves are gate and up of the same features, down, and dense products.
#ifndef CONCLAVE_MOE_KERNELS_CUDA_SM90_BF16_GROUPED_FFN_CUH_
#define CONCLAVE_MOE_KERNELS_CUDA_SM90_BF16_GROUPED_FFN_CUH_

#include "moe/kernels/cuda/sm90_fp8_grouped_ffn.cuh"
#include "moe/kernels/cuda/sm90_store_rows.cuh"
#include "moe/kernels/cuda/sm90_wgmma_bf16.cuh"

namespace conclave::sm90::bf16 {

inline constexpr int kBlockK = 64;  // 128 bytes

template <int kTokens>
struct Stage {
  static constexpr int kWeightBytes = 2 * kHalfFeatures * 128;
  static constexpr int kBytes = kWeightBytes + kTokens * 128;
  static constexpr int kStages = (kSharedBytesMax - 2048) / (kBytes + 16);
};

// Where a thread stands in the ring of stages.
template <int kTokens>
struct Ring {
  uint32_t stages;  // [kStages][kBytes], 1024-byte aligned
  uint32_t full;    // [kStages]
  uint32_t empty;   // [kStages]
  int index = 0;
  uint32_t phase = 0;

  __device__ void Advance() {
    if (++index == Stage<kTokens>::kStages) {
      index = 0;
      phase ^= 1;
    }
  }
  __device__ uint32_t stage() const { return stages + index * Stage<kTokens>::kBytes; }
};

template <int kTokens>
__device__ inline void ProduceTile(Ring<kTokens>& ring, const CUtensorMap& weights, const CUtensorMap& rows, const Tile& tile,
                                   int first, int half_step, int k_blocks) {
  const uint64_t weight_hint = kTokens < 128 ? kEvictFirst : kEvictNormal;
  for (int block = 0; block < k_blocks; ++block) {
    BarrierWaitAt(ring.empty + 8 * ring.index, ring.phase ^ 1);
    auto* full = static_cast<uint64_t*>(__cvta_shared_to_generic(ring.full + 8 * ring.index));
    auto* stage = static_cast<uint8_t*>(__cvta_shared_to_generic(ring.stage()));
    BarrierArriveExpect(full, Stage<kTokens>::kBytes);
    CopyTensor2d(&weights, full, stage, block * kBlockK, first, weight_hint);
    CopyTensor2d(&weights, full, stage + kHalfFeatures * 128, block * kBlockK, first + half_step, weight_hint);
    CopyTensor2d(&rows, full, stage + Stage<kTokens>::kWeightBytes, block * kBlockK, tile.row_begin, kEvictLast);
    ring.Advance();
  }
}

// acc[h] = this thread's part of D[64 features, kTokens] of half h (layout: WgmmaE4M3). One block of K stays in flight.
template <int kTokens>
__device__ inline void ConsumeTile(Ring<kTokens>& ring, int k_blocks, float (&acc)[2][kTokens / 2]) {
  const int warpgroup = __shfl_sync(~0u, threadIdx.x / 128, 0);
  uint32_t in_flight = 0;
  for (int block = 0; block < k_blocks; ++block) {
    const uint64_t a = OperandDescriptorAt(ring.stage() + warpgroup * 64 * 128);
    const uint64_t b = OperandDescriptorAt(ring.stage() + Stage<kTokens>::kWeightBytes);
    BarrierWaitAt(ring.full + 8 * ring.index, ring.phase);
    WgmmaFence();
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int step = 0; step < kBlockK / 16; ++step) {
        WgmmaBf16<kTokens>::Run(acc[half], a + half * (kHalfFeatures * 128 >> 4) + 2 * step, b + 2 * step, block + step > 0);
      }
    }
    WgmmaCommit();
    WgmmaWait<1>();
    if (block > 0 && threadIdx.x % 32 == 0) BarrierArriveHere(in_flight);
    in_flight = ring.empty + 8 * ring.index;
    ring.Advance();
  }
  WgmmaWait<0>();
  if (threadIdx.x % 32 == 0) BarrierArriveHere(in_flight);
#pragma unroll
  for (int i = 0; i < kTokens / 2; ++i) {
    WgmmaTouch(acc[0][i]);
    WgmmaTouch(acc[1][i]);
  }
}

// What becomes of a tile's sums: silu(gate) · up in bfloat16, or the sums in bfloat16 or float32.
enum class Output { kSwiGlu, kBf16, kFloat };

template <int kTokens, Output kOutput>
__global__ void __launch_bounds__(kThreads, 1)
    GroupedKernel(const __grid_constant__ CUtensorMap weights, const __grid_constant__ CUtensorMap rows,
                  const __grid_constant__ KernelArguments arguments) {
  constexpr bool kGateUp = kOutput == Output::kSwiGlu;
  extern __shared__ uint8_t unaligned[];
  constexpr int kStages = Stage<kTokens>::kStages;
  uint8_t* shared = reinterpret_cast<uint8_t*>((reinterpret_cast<uintptr_t>(unaligned) + 1023) / 1024 * 1024);
  auto* barriers = reinterpret_cast<uint64_t*>(shared + kStages * Stage<kTokens>::kBytes);
  Ring<kTokens> ring{SharedAddress(shared), SharedAddress(barriers), SharedAddress(barriers + kStages)};
  if (threadIdx.x == 0) {
    for (int i = 0; i < kStages; ++i) {
      BarrierInit(&barriers[i], 1);
      BarrierInit(&barriers[kStages + i], kConsumers / 32);
    }
    FenceBarrierInit();
  }
  __syncthreads();

  conclave::cuda::AwaitKernelsBefore();
  conclave::cuda::LetNextKernelStart();
  TileDealer<kTokens> dealer(arguments.shape);
  Tile tile;
  const int k_blocks = arguments.shape.k_blocks;
  const int half_step = kGateUp ? arguments.features / 2 : kHalfFeatures;
  const int tile_step = kGateUp ? kHalfFeatures : 2 * kHalfFeatures;
  if (threadIdx.x >= kConsumers) {
    RegistersDown<40>();
    if (threadIdx.x == kConsumers) {
      while (dealer.Next(&tile)) {
        ProduceTile(ring, weights, rows, tile, tile.expert * arguments.features + tile.feature_tile * tile_step, half_step, k_blocks);
      }
    }
  } else {
    RegistersUp<232>();
    float acc[2][kTokens / 2];
    while (dealer.Next(&tile)) {
      ConsumeTile<kTokens>(ring, k_blocks, acc);
      const int half_features[2] = {tile.feature_tile * tile_step, tile.feature_tile * tile_step + half_step};
      if constexpr (kGateUp) {
#pragma unroll
        for (int i = 0; i < kTokens / 2; ++i) acc[0][i] = SwiGlu(acc[0][i], acc[1][i]);
        StoreBf16<kTokens, 1>(acc, tile, half_features, arguments.features / 2, arguments.out);
      } else if constexpr (kOutput == Output::kFloat) {
        StoreFloats<kTokens>(acc, tile, half_features,
                             {arguments.out, arguments.features, arguments.features, false});
      } else {
        StoreBf16<kTokens, 2>(acc, tile, half_features, arguments.features, arguments.out);
      }
    }
  }
}

}  // namespace conclave::sm90::bf16

#endif  // CONCLAVE_MOE_KERNELS_CUDA_SM90_BF16_GROUPED_FFN_CUH_
