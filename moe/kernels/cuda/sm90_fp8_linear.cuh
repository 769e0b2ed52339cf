// The dense FP8 product for many rows, on the main loop of the grouped ones.
#ifndef CONCLAVE_MOE_KERNELS_CUDA_SM90_FP8_LINEAR_CUH_
#define CONCLAVE_MOE_KERNELS_CUDA_SM90_FP8_LINEAR_CUH_

#include "moe/kernels/cuda/overlap.cuh"
#include "moe/kernels/cuda/sm90_fp8_mainloop.cuh"
#include "moe/kernels/cuda/sm90_fp8_wide.cuh"
#include "moe/kernels/cuda/sm90_store_rows.cuh"

namespace conclave::sm90 {

// Everything a launch passes by value.
struct LinearArguments {
  int rows, row_tiles, feature_tiles, k_blocks;
  int scale_rows;
  const float* weight_scales;  // [scale_rows, k_blocks]
  OutputRows to;
};

__device__ inline Tile LinearTile(const LinearArguments& arguments, int number) {
  const TilePlace place = PlaceOf(number, arguments.row_tiles, arguments.feature_tiles);
  const int row = place.row_tile * kWideTokens;
  return Tile{0, place.feature_tile, row, min(kWideTokens, arguments.rows - row)};
}

// A template only so that its header may stand in several sources.
template <int kTokens>
__global__ void __launch_bounds__(kThreads, 1)
    LinearKernel(const __grid_constant__ CUtensorMap weights, const __grid_constant__ CUtensorMap rows,
                 const __grid_constant__ CUtensorMap scales, const __grid_constant__ LinearArguments arguments) {
  static_assert(kTokens == kWideTokens);
  extern __shared__ uint8_t unaligned[];
  Ring<kTokens> ring;
  MakeRing(unaligned, ring);
  conclave::cuda::FollowKernelsBefore();
  const int tiles = arguments.row_tiles * arguments.feature_tiles;
  if (threadIdx.x >= kConsumers) {
    RegistersDown<40>();
    if (threadIdx.x != kConsumers) return;
    int asked = 0;
    for (int number = blockIdx.x; number < tiles; number += gridDim.x) {
      const Tile tile = LinearTile(arguments, number);
      const int first = tile.feature_tile * 2 * kHalfFeatures;
      ProduceTile(ring, weights, rows, scales, tile, {first, first + kHalfFeatures}, arguments.k_blocks, asked);
    }
  } else {
    RegistersUp<232>();
    float acc[2][kTokens / 2];
    for (int number = blockIdx.x; number < tiles; number += gridDim.x) {
      const Tile tile = LinearTile(arguments, number);
      const int half_features[2] = {tile.feature_tile * 2 * kHalfFeatures,
                                    tile.feature_tile * 2 * kHalfFeatures + kHalfFeatures};
      const auto scales_of = [&](int half) {
        const int row = min(half_features[half] / kHalfFeatures, arguments.scale_rows - 1);
        return arguments.weight_scales + int64_t{row} * arguments.k_blocks;
      };
      const float* const weight_scales[2] = {scales_of(0), scales_of(1)};
      ConsumeWideTile(ring, weight_scales, arguments.k_blocks, acc);
      StoreWide(acc, tile, half_features, arguments.to);
    }
  }
}

}  // namespace conclave::sm90

#endif  // CONCLAVE_MOE_KERNELS_CUDA_SM90_FP8_LINEAR_CUH_
