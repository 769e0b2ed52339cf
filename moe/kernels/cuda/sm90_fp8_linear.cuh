// The dense FP8 product on the main loops of the grouped ones: dense_linear.h says in which order it adds up.
#ifndef CONCLAVE_MOE_KERNELS_CUDA_SM90_FP8_LINEAR_CUH_
#define CONCLAVE_MOE_KERNELS_CUDA_SM90_FP8_LINEAR_CUH_

#include "moe/kernels/cuda/sm90_fp8_mainloop.cuh"
#include "moe/kernels/cuda/sm90_fp8_wide.cuh"
#include "moe/kernels/cuda/sm90_store_f32.cuh"

namespace conclave::sm90 {

// Everything a launch passes by value.
struct LinearArguments {
  int rows, row_tiles, feature_tiles;
  int k_blocks, splits, split_blocks;  // the last split may have fewer blocks
  bool apart;                          // splits are dealt to different blocks of threads
  int scale_rows;
  const float* weight_scales;          // [scale_rows, k_blocks]
  FloatRows to;
  float4* partials;                    // [row_tiles * feature_tiles, splits, kTokens / 4, kConsumers]
  int32_t* counters;                   // [row_tiles * feature_tiles]: splits that have left their sums
};

// A tile and the splits of K that this block of threads takes of it.
struct LinearTile {
  Tile tile;
  int number;  // of the tile
  int split_begin, split_end;
};

template <int kTokens>
__device__ inline bool DealTile(const LinearArguments& arguments, int unit, LinearTile* dealt) {
  const int parts = arguments.apart ? arguments.splits : 1, number = unit / parts;
  if (number >= arguments.row_tiles * arguments.feature_tiles) return false;
  const TilePlace place = PlaceOf(number, arguments.row_tiles, arguments.feature_tiles);
  const int row = place.row_tile * kTokens;
  dealt->tile = Tile{0, place.feature_tile, row, min(kTokens, arguments.rows - row)};
  dealt->number = number;
  dealt->split_begin = arguments.apart ? unit % parts : 0;
  dealt->split_end = arguments.apart ? dealt->split_begin + 1 : arguments.splits;
  return true;
}

// Leaves acc beside those of the tile's other splits. In the block of threads that came last acc becomes the sum of all,
// ascending, and true is returned.
template <int kTokens>
__device__ inline bool JoinSplits(const LinearArguments& arguments, const LinearTile& dealt, float (&acc)[2][kTokens / 2],
                                  int* last) {
  constexpr int kFours = kTokens / 4;
  float4* of_tile = arguments.partials + int64_t{dealt.number} * arguments.splits * kFours * kConsumers + threadIdx.x;
  float4* mine = of_tile + dealt.split_begin * kFours * kConsumers;
  float* flat = &acc[0][0];
#pragma unroll
  for (int i = 0; i < kFours; ++i) {
    __stcg(mine + i * kConsumers, make_float4(flat[4 * i], flat[4 * i + 1], flat[4 * i + 2], flat[4 * i + 3]));
  }
  __threadfence();
  NamedBarrier(1, kConsumers);
  if (threadIdx.x == 0) {
    *last = atomicAdd(&arguments.counters[dealt.number], 1) == arguments.splits - 1;
    if (*last) arguments.counters[dealt.number] = 0;  // for the next launch
  }
  NamedBarrier(1, kConsumers);
  if (!*last) return false;
  __threadfence();
#pragma unroll
  for (int i = 0; i < kFours; ++i) {
    float4 sum = __ldcg(of_tile + i * kConsumers);
    for (int split = 1; split < arguments.splits; ++split) {
      const float4 next = __ldcg(of_tile + (split * kFours + i) * kConsumers);
      sum = make_float4(sum.x + next.x, sum.y + next.y, sum.z + next.z, sum.w + next.w);
    }
    flat[4 * i] = sum.x;
    flat[4 * i + 1] = sum.y;
    flat[4 * i + 2] = sum.z;
    flat[4 * i + 3] = sum.w;
  }
  return true;
}

template <int kTokens>
__device__ inline void ConsumeLinear(Ring<kTokens>& ring, const LinearArguments& arguments, const LinearTile& dealt,
                                     int* last) {
  const int half_features[2] = {dealt.tile.feature_tile * 2 * kHalfFeatures,
                                dealt.tile.feature_tile * 2 * kHalfFeatures + kHalfFeatures};
  float acc[2][kTokens / 2];
  for (int split = dealt.split_begin; split < dealt.split_end; ++split) {
    const int first = split * arguments.split_blocks;
    const int blocks = min(arguments.split_blocks, arguments.k_blocks - first);
    const auto scales = [&](int half) {
      const int row = min(half_features[half] / kHalfFeatures, arguments.scale_rows - 1);
      return arguments.weight_scales + int64_t{row} * arguments.k_blocks + first;
    };
    const float* const weight_scales[2] = {scales(0), scales(1)};
    if constexpr (kTokens == kWideTokens) {
      ConsumeWideTile(ring, weight_scales, blocks, acc);
    } else {
      ConsumeTile<kTokens>(ring, weight_scales, blocks, acc);
    }
    if (arguments.apart && !JoinSplits<kTokens>(arguments, dealt, acc, last)) continue;
    if constexpr (kTokens == kWideTokens) {
      StoreWideFloats(acc, dealt.tile, half_features, arguments.to, split > dealt.split_begin);
    } else {
      StoreFloats<kTokens>(acc, dealt.tile, half_features, arguments.to, split > dealt.split_begin);
    }
  }
}

template <int kTokens>
__global__ void __launch_bounds__(kThreads, 1)
    LinearKernel(const __grid_constant__ CUtensorMap weights, const __grid_constant__ CUtensorMap rows,
                 const __grid_constant__ CUtensorMap scales, const __grid_constant__ LinearArguments arguments) {
  extern __shared__ uint8_t unaligned[];
  Ring<kTokens> ring;
  uint8_t* staging = MakeRing(unaligned, ring);
  LinearTile dealt;
  if (threadIdx.x >= kConsumers) {
    RegistersDown<40>();
    if (threadIdx.x != kConsumers) return;
    PrefetchTensorMap(&weights);
    PrefetchTensorMap(&rows);
    PrefetchTensorMap(&scales);
    for (int unit = blockIdx.x; DealTile<kTokens>(arguments, unit, &dealt); unit += gridDim.x) {
      const int first_feature = dealt.tile.feature_tile * 2 * kHalfFeatures;
      const int first = dealt.split_begin * arguments.split_blocks;
      const int end = min(dealt.split_end * arguments.split_blocks, arguments.k_blocks);
      ProduceTile(ring, weights, rows, scales, dealt.tile, {first_feature, first_feature + kHalfFeatures}, first, end);
    }
  } else {
    RegistersUp<232>();
    for (int unit = blockIdx.x; DealTile<kTokens>(arguments, unit, &dealt); unit += gridDim.x) {
      ConsumeLinear<kTokens>(ring, arguments, dealt, reinterpret_cast<int*>(staging));
    }
  }
}

}  // namespace conclave::sm90

#endif  // CONCLAVE_MOE_KERNELS_CUDA_SM90_FP8_LINEAR_CUH_
