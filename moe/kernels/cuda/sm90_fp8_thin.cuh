// The dense FP8 product for few rows: tiles of 64 features, so that even a narrow matrix streams through all
// multiprocessors, and weights on their way before the kernel that makes the rows has ended. Products and the order of
// sums are those of sm90_fp8_mainloop.cuh and sm90_fp8_wide.cuh, and so are the bits: up to 32 rows are the wgmma's
// second operand, up to 128 its first.
#ifndef CONCLAVE_MOE_KERNELS_CUDA_SM90_FP8_THIN_CUH_
#define CONCLAVE_MOE_KERNELS_CUDA_SM90_FP8_THIN_CUH_

#include "moe/kernels/cuda/overlap.cuh"
#include "moe/kernels/cuda/sm90_fp8_linear.cuh"

namespace conclave::sm90 {

inline constexpr int kThinFeatures = 64;

template <int kTokens>
struct ThinTile {
  static constexpr bool kWide = kTokens == kWideTokens;
  static constexpr int kConsumers = kWide ? 256 : 128;
  static constexpr int kThreads = kConsumers + 32;
  static constexpr int kWeightBytes = kThinFeatures * kBlockK;
  static constexpr int kRowBytes = kTokens * kBlockK;
  static constexpr int kScalePitch = kTokens < 32 ? 32 : kTokens;
  static constexpr int kBytes = kWeightBytes + kRowBytes + kTokens * 4;  // what one barrier waits for
  static constexpr int kStride = kWeightBytes + kRowBytes;
  static constexpr int kStages = (kSharedBytesMax - 2048) / (kStride + 4 * kScalePitch + 16);
  static constexpr int kSums = kWide ? kThinFeatures / 2 : kTokens / 2;  // of a thread
};

// Addresses of the ring in shared memory, and a place in it.
template <int kTokens>
struct ThinRing {
  using Sizes = ThinTile<kTokens>;
  uint32_t stages, scales, full, empty;
  struct Place {
    int index = 0;
    uint32_t phase = 0;
    __device__ void Advance() {
      if (++index == Sizes::kStages) {
        index = 0;
        phase ^= 1;
      }
    }
  };
  __device__ uint32_t stage(const Place& place) const { return stages + place.index * Sizes::kStride; }
  __device__ uint32_t row_scales(const Place& place) const { return scales + place.index * (4 * Sizes::kScalePitch); }
};

template <int kTokens>
__device__ inline ThinRing<kTokens> MakeThinRing(uint8_t* unaligned) {
  using Sizes = ThinTile<kTokens>;
  ThinRing<kTokens> ring;
  ring.stages = (SharedAddress(unaligned) + 1023) / 1024 * 1024;
  ring.scales = ring.stages + Sizes::kStages * Sizes::kStride;
  ring.full = ring.scales + Sizes::kStages * 4 * Sizes::kScalePitch;
  ring.empty = ring.full + 8 * Sizes::kStages;
  if (threadIdx.x == 0) {
    for (int i = 0; i < Sizes::kStages; ++i) {
      BarrierInitAt(ring.full + 8 * i, 1);
      BarrierInitAt(ring.empty + 8 * i, Sizes::kConsumers / 32);
    }
    FenceBarrierInit();
  }
  __syncthreads();
  return ring;
}

struct ThinPlace {
  int row_tile, feature_tile;
};
__device__ inline ThinPlace ThinPlaceOf(const LinearArguments& arguments, int unit) {
  return {unit % arguments.row_tiles, unit / arguments.row_tiles};
}

// One thread. Weights depend on no kernel: those of the first stages are asked for before the wait.
template <int kTokens>
__device__ inline void ProduceThin(const ThinRing<kTokens>& ring, const CUtensorMap& weights, const CUtensorMap& rows,
                                   const CUtensorMap& scales, const LinearArguments& arguments) {
  using Sizes = ThinTile<kTokens>;
  typename ThinRing<kTokens>::Place place;
  const uint64_t hint = arguments.row_tiles == 1 ? kEvictFirst : kEvictNormal;
  const auto bring_weights = [&](const ThinPlace& tile, int block) {
    BarrierArriveExpectAt(ring.full + 8 * place.index, Sizes::kBytes);
    CopyTensor2dAt(&weights, ring.full + 8 * place.index, ring.stage(place), block * kBlockK,
                   tile.feature_tile * kThinFeatures, hint);
  };
  const int early = min(Sizes::kStages, arguments.k_blocks);
  for (int block = 0; block < early; ++block) {
    bring_weights(ThinPlaceOf(arguments, blockIdx.x), block);
    place.Advance();
  }
  conclave::cuda::AwaitKernelsBefore();
  place = {};
  int asked = early;  // blocks whose weights are on their way already
  for (int unit = blockIdx.x; unit < arguments.row_tiles * arguments.feature_tiles; unit += gridDim.x) {
    const ThinPlace tile = ThinPlaceOf(arguments, unit);
    for (int block = 0; block < arguments.k_blocks; ++block) {
      if (asked > 0) {
        --asked;
      } else {
        BarrierWaitAt(ring.empty + 8 * place.index, place.phase ^ 1);
        bring_weights(tile, block);
      }
      const uint32_t full = ring.full + 8 * place.index;
      CopyTensor2dAt(&rows, full, ring.stage(place) + Sizes::kWeightBytes, block * kBlockK, tile.row_tile * kTokens,
                     kEvictLast);
      CopyTensor2dAt(&scales, full, ring.row_scales(place), tile.row_tile * kTokens, block, kEvictLast);
      place.Advance();
    }
  }
}

// Starts the products of one block of K.
template <int kTokens>
__device__ __forceinline__ void IssueThin(const ThinRing<kTokens>& ring, const typename ThinRing<kTokens>::Place& place,
                                          float (&partial)[ThinTile<kTokens>::kSums]) {
  using Sizes = ThinTile<kTokens>;
  const uint64_t weights = OperandDescriptorAt(ring.stage(place));
  const int warpgroup = Sizes::kWide ? __shfl_sync(~0u, threadIdx.x / 128, 0) : 0;
  const uint64_t rows = OperandDescriptorAt(ring.stage(place) + Sizes::kWeightBytes + warpgroup * 64 * kBlockK);
  BarrierWaitAt(ring.full + 8 * place.index, place.phase);
#pragma unroll
  for (int i = 0; i < Sizes::kSums; ++i) WgmmaTouch(partial[i]);
  WgmmaFence();
#pragma unroll
  for (int step = 0; step < kBlockK / 32; ++step) {
    if constexpr (Sizes::kWide) {
      WgmmaE4M3<kThinFeatures>::Run(partial, rows + 2 * step, weights + 2 * step, step > 0);
    } else {
      WgmmaE4M3<kTokens>::Run(partial, weights + 2 * step, rows + 2 * step, step > 0);
    }
  }
  WgmmaCommit();
}

// acc += partial · scales of the block, once at most kPending groups are in flight; frees the block.
template <int kTokens, int kPending>
__device__ __forceinline__ void AddThin(const ThinRing<kTokens>& ring, typename ThinRing<kTokens>::Place& place,
                                        float scale, float (&partial)[ThinTile<kTokens>::kSums],
                                        float (&acc)[ThinTile<kTokens>::kSums]) {
  using Sizes = ThinTile<kTokens>;
  const int lane = threadIdx.x % 32;
  const uint32_t of_stage = ring.row_scales(place);
  float of_rows[Sizes::kWide ? 2 : kTokens / 4];
  if constexpr (Sizes::kWide) {
    const uint32_t of_thread = of_stage + (threadIdx.x / 32 * 16 + lane / 4) * 4;
    of_rows[0] = scale * LoadShared(of_thread);
    of_rows[1] = scale * LoadShared(of_thread + 32);
  } else {
#pragma unroll
    for (int j = 0; j < kTokens / 8; ++j) {
#pragma unroll
      for (int i = 0; i < 2; ++i) of_rows[2 * j + i] = scale * LoadShared(of_stage + (8 * j + 2 * (lane % 4) + i) * 4);
    }
  }
  WgmmaWait<kPending>();
#pragma unroll
  for (int i = 0; i < Sizes::kSums; ++i) WgmmaTouch(partial[i]);
  if (lane == 0) BarrierArriveHere(ring.empty + 8 * place.index);
#pragma unroll
  for (int i = 0; i < Sizes::kSums; ++i) {
    const float s = Sizes::kWide ? of_rows[i / 2 % 2] : of_rows[2 * (i / 4) + i % 2];
    acc[i] = __fmaf_rn(partial[i], s, acc[i]);
  }
  place.Advance();
}

// One tile, two blocks of K in flight. `issued` runs a block ahead of `added`.
template <int kTokens>
__device__ inline void ConsumeThin(const ThinRing<kTokens>& ring, typename ThinRing<kTokens>::Place& place,
                                   const float* weight_scales, int k_blocks, float (&acc)[ThinTile<kTokens>::kSums]) {
  float even[ThinTile<kTokens>::kSums], odd[ThinTile<kTokens>::kSums];
  auto issued = place;
#pragma unroll
  for (int i = 0; i < ThinTile<kTokens>::kSums; ++i) acc[i] = 0.0f;
  float scale = __ldg(weight_scales);
  IssueThin<kTokens>(ring, issued, even);
  issued.Advance();
  int block = 0;
  for (; block + 2 < k_blocks; block += 2) {
    const float second = __ldg(weight_scales + block + 1), third = __ldg(weight_scales + block + 2);
    IssueThin<kTokens>(ring, issued, odd);
    issued.Advance();
    AddThin<kTokens, 1>(ring, place, scale, even, acc);
    IssueThin<kTokens>(ring, issued, even);
    issued.Advance();
    AddThin<kTokens, 1>(ring, place, second, odd, acc);
    scale = third;
  }
  if (block + 1 < k_blocks) {
    const float second = __ldg(weight_scales + block + 1);
    IssueThin<kTokens>(ring, issued, odd);
    AddThin<kTokens, 1>(ring, place, scale, even, acc);
    AddThin<kTokens, 0>(ring, place, second, odd, acc);
  } else {
    AddThin<kTokens, 0>(ring, place, scale, even, acc);
  }
}

template <int kTokens>
__device__ inline void StoreThin(const float (&acc)[ThinTile<kTokens>::kSums], const ThinPlace& tile,
                                 const LinearArguments& arguments) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
  for (int j = 0; j < ThinTile<kTokens>::kSums / 4; ++j) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int down = 16 * warp + lane / 4 + 8 * h, across = 8 * j + 2 * (lane % 4);
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int row = tile.row_tile * kTokens + (ThinTile<kTokens>::kWide ? down : across + i);
        const int feature = tile.feature_tile * kThinFeatures + (ThinTile<kTokens>::kWide ? across + i : down);
        if (row < arguments.rows && feature < arguments.to.features)
          arguments.to.Store(row, feature, acc[4 * j + 2 * h + i]);
      }
    }
  }
}

template <int kTokens>
__global__ void __launch_bounds__(ThinTile<kTokens>::kThreads, 1)
    ThinKernel(const __grid_constant__ CUtensorMap weights, const __grid_constant__ CUtensorMap rows,
               const __grid_constant__ CUtensorMap scales, const __grid_constant__ LinearArguments arguments) {
  extern __shared__ uint8_t unaligned[];
  const ThinRing<kTokens> ring = MakeThinRing<kTokens>(unaligned);
  conclave::cuda::LetNextKernelStart();
  if (threadIdx.x >= ThinTile<kTokens>::kConsumers) {
    if (threadIdx.x == ThinTile<kTokens>::kConsumers) ProduceThin<kTokens>(ring, weights, rows, scales, arguments);
    return;
  }
  conclave::cuda::AwaitKernelsBefore();
  typename ThinRing<kTokens>::Place place;
  for (int unit = blockIdx.x; unit < arguments.row_tiles * arguments.feature_tiles; unit += gridDim.x) {
    const ThinPlace tile = ThinPlaceOf(arguments, unit);
    const int scale_row = tile.feature_tile * kThinFeatures / 128;
    float acc[ThinTile<kTokens>::kSums];
    ConsumeThin<kTokens>(ring, place, arguments.weight_scales + int64_t{scale_row} * arguments.k_blocks,
                         arguments.k_blocks, acc);
    StoreThin<kTokens>(acc, tile, arguments);
  }
}

}  // namespace conclave::sm90

#endif  // CONCLAVE_MOE_KERNELS_CUDA_SM90_FP8_THIN_CUH_
