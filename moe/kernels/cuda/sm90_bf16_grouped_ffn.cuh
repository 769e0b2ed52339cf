// The grouped product in bfloat16: weights are the wgmma's first operand and rows its second, and the tensor cores add
// up all of K. Shared by gate+up, whose halves are gate and up of the same features, down, and dense products.
#ifndef CONCLAVE_MOE_KERNELS_CUDA_SM90_BF16_GROUPED_FFN_CUH_
#define CONCLAVE_MOE_KERNELS_CUDA_SM90_BF16_GROUPED_FFN_CUH_

#include "moe/kernels/cuda/sm90_fp8_grouped_ffn.cuh"
#include "moe/kernels/cuda/sm90_store_rows.cuh"
#include "moe/kernels/cuda/sm90_wgmma_bf16.cuh"

namespace conclave::sm90::bf16 {

inline constexpr int kBlockK = 64;  // 128 bytes

// Both halves of a tile have kHalf features; a warpgroup has 64 of each.
template <int kTokens, int kHalf>
struct Stage {
  static constexpr int kWeightBytes = 2 * kHalf * 128;
  static constexpr int kBytes = kWeightBytes + kTokens * 128;
  static constexpr int kStages = (kSharedBytesMax - 2048) / (kBytes + 16);
};

// Where a thread stands in the ring of stages.
template <int kTokens, int kHalf>
struct Ring {
  using Sizes = Stage<kTokens, kHalf>;
  uint32_t stages;  // [kStages][kBytes], 1024-byte aligned
  uint32_t full;    // [kStages]
  uint32_t empty;   // [kStages]
  int index = 0;
  uint32_t phase = 0;

  __device__ void Advance() {
    if (++index == Sizes::kStages) {
      index = 0;
      phase ^= 1;
    }
  }
  __device__ uint32_t stage() const { return stages + index * Sizes::kBytes; }
};

// Asks for the weights of one stage; their halves begin `half_step` rows apart.
template <int kTokens, int kHalf>
__device__ inline void BringWeights(const Ring<kTokens, kHalf>& ring, const CUtensorMap& weights, int first,
                                    int half_step, int block) {
  // Not kEvictFirst, as sm90_fp8_mainloop.cuh has it.
  const uint32_t full = ring.full + 8 * ring.index;
  BarrierArriveExpectAt(full, Stage<kTokens, kHalf>::kBytes);
  CopyTensor2dAt(&weights, full, ring.stage(), block * kBlockK, first, kEvictNormal);
  CopyTensor2dAt(&weights, full, ring.stage() + kHalf * 128, block * kBlockK, first + half_step, kEvictNormal);
}

// The weights of the first `asked` blocks are on their way; then there are none.
template <int kTokens, int kHalf>
__device__ inline void ProduceTile(Ring<kTokens, kHalf>& ring, const CUtensorMap& weights, const CUtensorMap& rows,
                                   const Tile& tile, int first, int half_step, int k_blocks, int& asked) {
  for (int block = 0; block < k_blocks; ++block) {
    if (block >= asked) {
      BarrierWaitAt(ring.empty + 8 * ring.index, ring.phase ^ 1);
      BringWeights(ring, weights, first, half_step, block);
    }
    CopyTensor2dAt(&rows, ring.full + 8 * ring.index, ring.stage() + Stage<kTokens, kHalf>::kWeightBytes,
                   block * kBlockK, tile.row_begin, kEvictLast);
    ring.Advance();
  }
  asked = 0;
}

// acc[h] = this thread's part of D[64 features, kTokens] of half h (layout: WgmmaE4M3). One block of K stays in flight.
template <int kTokens, int kHalf>
__device__ inline void ConsumeTile(Ring<kTokens, kHalf>& ring, int k_blocks, float (&acc)[2][kTokens / 2]) {
  const int warpgroup = __shfl_sync(~0u, threadIdx.x / 128, 0);
  uint32_t in_flight = 0;
  for (int block = 0; block < k_blocks; ++block) {
    const uint64_t a = OperandDescriptorAt(ring.stage() + warpgroup * 64 * 128);
    const uint64_t b = OperandDescriptorAt(ring.stage() + Stage<kTokens, kHalf>::kWeightBytes);
    BarrierWaitAt(ring.full + 8 * ring.index, ring.phase);
    WgmmaFence();
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int step = 0; step < kBlockK / 16; ++step) {
        WgmmaBf16<kTokens>::Run(acc[half], a + half * (kHalf * 128 >> 4) + 2 * step, b + 2 * step, block + step > 0);
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

template <int kHalf>
inline constexpr int kConsumersOf = 2 * kHalf;

template <int kTokens, int kHalf, Output kOutput>
__global__ void __launch_bounds__(kConsumersOf<kHalf> + 128, 1)
    GroupedKernel(const __grid_constant__ CUtensorMap weights, const __grid_constant__ CUtensorMap rows,
                  const __grid_constant__ KernelArguments arguments) {
  constexpr bool kGateUp = kOutput == Output::kSwiGlu, kMovesRegisters = kHalf == kHalfFeatures;
  constexpr int kStages = Stage<kTokens, kHalf>::kStages;
  extern __shared__ uint8_t unaligned[];
  const uint32_t shared = (SharedAddress(unaligned) + 1023) / 1024 * 1024;
  const uint32_t barriers = shared + kStages * Stage<kTokens, kHalf>::kBytes;
  Ring<kTokens, kHalf> ring{shared, barriers, barriers + 8 * kStages};
  if (threadIdx.x == 0) {
    for (int i = 0; i < kStages; ++i) {
      BarrierInitAt(ring.full + 8 * i, 1);
      BarrierInitAt(ring.empty + 8 * i, kConsumersOf<kHalf> / 32);
    }
    FenceBarrierInit();
  }
  __syncthreads();

  // The next kernel may count on the counts of rows.
  if (!arguments.early_weights) conclave::cuda::AwaitKernelsBefore();
  conclave::cuda::LetNextKernelStart();
  TileDealer<kTokens> dealer(arguments.shape);
  Tile tile;
  const int k_blocks = arguments.shape.k_blocks;
  const int half_step = kGateUp ? arguments.features / 2 : kHalf;
  const int tile_step = kGateUp ? kHalf : 2 * kHalf;
  if (threadIdx.x >= kConsumersOf<kHalf>) {
    if constexpr (kMovesRegisters) RegistersDown<40>();
    if (threadIdx.x == kConsumersOf<kHalf>) {
      int asked = 0;
      if (arguments.early_weights) {
        TileDealer<kTokens> look_ahead = dealer;
        Ring<kTokens, kHalf> place = ring;
        if (look_ahead.Next(&tile)) {
          const int first = tile.expert * arguments.features + tile.feature_tile * tile_step;
          for (; asked < min(kStages, k_blocks); ++asked, place.Advance())
            BringWeights(place, weights, first, half_step, asked);
        }
        conclave::cuda::AwaitKernelsBefore();
      }
      while (dealer.Next(&tile)) {
        const int first = tile.expert * arguments.features + tile.feature_tile * tile_step;
        ProduceTile(ring, weights, rows, tile, first, half_step, k_blocks, asked);
      }
    }
  } else {
    if constexpr (kMovesRegisters) RegistersUp<232>();
    if (arguments.early_weights) conclave::cuda::AwaitKernelsBefore();
    float acc[2][kTokens / 2];
    while (dealer.Next(&tile)) {
      ConsumeTile<kTokens, kHalf>(ring, k_blocks, acc);
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
