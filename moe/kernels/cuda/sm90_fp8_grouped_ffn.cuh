// The two grouped kernels: main loop plus epilogue. Instantiated and launched by sm90_fp8_grouped_ffn.cu.
#ifndef CONCLAVE_MOE_KERNELS_CUDA_SM90_FP8_GROUPED_FFN_CUH_
#define CONCLAVE_MOE_KERNELS_CUDA_SM90_FP8_GROUPED_FFN_CUH_

#include "moe/kernels/cuda/overlap.cuh"
#include "moe/kernels/cuda/sm90_fp8_mainloop.cuh"
#include "moe/kernels/cuda/sm90_fp8_wide.cuh"

namespace conclave::sm90 {

// acc → bf16 → rows of [rows, features]. A fragment holds features down and rows across, memory wants it the other way
// round: 8x8 blocks are transposed in registers, and lanes swap halves so that 32 bytes of a row leave in one
// instruction. `half_features` are the first output features of the halves, `features` those of a row of `out`.
template <int kTokens, int kHalves>
__device__ void StoreBf16(const float (&acc)[2][kTokens / 2], const Tile& tile, const int (&half_features)[2],
                          int64_t features, void* rows) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const bool odd = lane & 1;
  __nv_bfloat16* out = static_cast<__nv_bfloat16*>(rows);
  // After the swap an even lane has four features of the block's first eight, an odd lane four of its last eight.
  const int feature = 16 * warp + (odd ? 8 : 0) + 2 * (lane % 4 & ~1);
  int64_t to = (tile.row_begin + lane / 4) * features + feature;
#pragma unroll
  for (int j = 0; j < kTokens / 8; ++j) {
    const bool inside = 8 * j + lane / 4 < tile.rows;
#pragma unroll
    for (int half = 0; half < kHalves; ++half) {
      uint32_t blocks[2];
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const __nv_bfloat162 pair = __floats2bfloat162_rn(acc[half][4 * j + 2 * h], acc[half][4 * j + 2 * h + 1]);
        blocks[h] = Transpose8x8(*reinterpret_cast<const uint32_t*>(&pair));
      }
      const uint32_t received = __shfl_xor_sync(~0u, odd ? blocks[0] : blocks[1], 1);
      const uint2 four = odd ? make_uint2(received, blocks[1]) : make_uint2(blocks[0], received);
      if (inside) *reinterpret_cast<uint2*>(out + to + half_features[half]) = four;
    }
    to += 8 * features;
  }
}

// silu(gate) · up, the largest magnitude of each row over the tile's 128 features, and e4m3 with that scale.
template <int kTokens>
__device__ void StoreSwiGluQuantised(float (&acc)[2][kTokens / 2], uint8_t* staging, const Tile& tile,
                                     const KernelArguments& arguments) {
  constexpr int kPitch = 128 + 16;  // bytes
  float* maxima = reinterpret_cast<float*>(staging);                       // [8 warps][kTokens]
  uint8_t* staged = staging + 8 * kTokens * sizeof(float);                 // [min(kTokens, 64)][kPitch]
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int intermediate = arguments.features / 2;
#pragma unroll
  for (int j = 0; j < kTokens / 8; ++j) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      acc[0][4 * j + i] = SwiGlu(acc[0][4 * j + i], acc[1][4 * j + i]);
    }
#pragma unroll
    for (int column = 0; column < 2; ++column) {
      float largest = fmaxf(fabsf(acc[0][4 * j + column]), fabsf(acc[0][4 * j + 2 + column]));
#pragma unroll
      for (int step = 4; step < 32; step *= 2) largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, step));
      if (lane < 4) maxima[warp * kTokens + 8 * j + 2 * lane + column] = largest;
    }
  }
  NamedBarrier(1, kConsumers);
  for (int row = threadIdx.x; row < kTokens; row += kConsumers) {
    float largest = 1e-10f;
#pragma unroll
    for (int w = 0; w < 8; ++w) largest = fmaxf(largest, maxima[w * kTokens + row]);
    const float scale = largest / 448.0f;
    maxima[row] = 1.0f / scale;  // warp 0's maxima of this row have been read by this very thread
    if (row < tile.rows) {
      const int64_t to = static_cast<int64_t>(tile.feature_tile) * arguments.out_scale_stride + tile.row_begin + row;
      arguments.out_scales[to] = scale;
    }
  }
  NamedBarrier(1, kConsumers);
  constexpr int kChunk = kTokens < 64 ? kTokens : 64;
  uint8_t* out = static_cast<uint8_t*>(arguments.out);
#pragma unroll
  for (int chunk = 0; chunk < kTokens; chunk += kChunk) {
    if (chunk < tile.rows) {
#pragma unroll
      for (int j = 0; j < kChunk / 8; ++j) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int row = 8 * j + 2 * (lane % 4) + (i & 1);
          const int feature = 16 * warp + 8 * (i >> 1) + lane / 4;
          const float scaled = acc[0][4 * (chunk / 8 + j) + i] * maxima[chunk + row];
          staged[row * kPitch + feature] = __nv_cvt_float_to_fp8(scaled, __NV_SATFINITE, __NV_E4M3);
        }
      }
      NamedBarrier(1, kConsumers);
      // Eight threads a row, 16 bytes each.
      for (int row = threadIdx.x / 8; row < kChunk && chunk + row < tile.rows; row += kConsumers / 8) {
        const int feature = 16 * (threadIdx.x % 8);
        const int64_t to =
            static_cast<int64_t>(tile.row_begin + chunk + row) * intermediate + tile.feature_tile * 128 + feature;
        *reinterpret_cast<uint4*>(out + to) = *reinterpret_cast<const uint4*>(staged + row * kPitch + feature);
      }
      NamedBarrier(1, kConsumers);
    }
  }
}

// acc = the sums of a tile whose halves begin at `half_features` of its expert's matrix.
template <int kTokens>
__device__ __forceinline__ void MultiplyTile(Ring<kTokens>& ring, const Tile& tile, const int (&half_features)[2],
                                             const KernelArguments& arguments, float (&acc)[2][kTokens / 2]) {
  const int k_blocks = arguments.shape.k_blocks;
  const float* of_expert = arguments.weight_scales + int64_t{tile.expert} * (arguments.features / 128) * k_blocks;
  const float* const weight_scales[2] = {of_expert + static_cast<int64_t>(half_features[0] / 128) * k_blocks,
                                         of_expert + static_cast<int64_t>(half_features[1] / 128) * k_blocks};
  if constexpr (kTokens == kWideTokens) {
    ConsumeWideTile(ring, weight_scales, k_blocks, acc);
  } else {
    ConsumeTile<kTokens>(ring, weight_scales, k_blocks, acc);
  }
}

template <int kTokens, Epilogue kEpilogue>
__device__ __forceinline__ void StoreTile(float (&acc)[2][kTokens / 2], uint8_t* staging, const Tile& tile,
                                          const int (&half_features)[2], const KernelArguments& arguments) {
  if constexpr (kTokens == kWideTokens) {
    if constexpr (kEpilogue == Epilogue::kSwiGluQuantise) {
      StoreWideSwiGluQuantised(acc, tile, arguments);
    } else {
      StoreWideBf16(acc, tile, half_features, arguments.features, arguments.features,
                    static_cast<__nv_bfloat16*>(arguments.out));
    }
  } else if constexpr (kEpilogue == Epilogue::kSwiGluQuantise) {
    StoreSwiGluQuantised<kTokens>(acc, staging, tile, arguments);
  } else {
    StoreBf16<kTokens, 2>(acc, tile, half_features, arguments.features, arguments.out);
  }
}

template <int kTokens, Epilogue kEpilogue>
__global__ void __launch_bounds__(kThreads, 1)
    GroupedKernel(const __grid_constant__ CUtensorMap weights, const __grid_constant__ CUtensorMap rows,
                  const __grid_constant__ CUtensorMap scales, const __grid_constant__ KernelArguments arguments) {
  extern __shared__ uint8_t unaligned[];
  Ring<kTokens> ring;
  uint8_t* staging = MakeRing(unaligned, ring);
  conclave::cuda::FollowKernelsBefore();
  TileDealer<kTokens> dealer(arguments.shape);
  Tile tile;
  const int k_blocks = arguments.shape.k_blocks;
  // The halves: gate and up of the same features, or 256 features in a row.
  const int half_step = kEpilogue == Epilogue::kSwiGluQuantise ? arguments.features / 2 : kHalfFeatures;
  const int tile_step = kEpilogue == Epilogue::kSwiGluQuantise ? kHalfFeatures : 2 * kHalfFeatures;
  if (threadIdx.x >= kConsumers) {
    RegistersDown<40>();
    if (threadIdx.x == kConsumers) {
      PrefetchTensorMap(&weights);
      PrefetchTensorMap(&rows);
      PrefetchTensorMap(&scales);
      int asked = 0;
      while (dealer.Next(&tile)) {
        const int first = tile.expert * arguments.features + tile.feature_tile * tile_step;
        ProduceTile(ring, weights, rows, scales, tile, {first, first + half_step}, k_blocks, asked);
      }
    }
  } else {
    RegistersUp<232>();
    float acc[2][kTokens / 2];
    while (dealer.Next(&tile)) {
      const int half_features[2] = {tile.feature_tile * tile_step, tile.feature_tile * tile_step + half_step};
      MultiplyTile<kTokens>(ring, tile, half_features, arguments, acc);
      StoreTile<kTokens, kEpilogue>(acc, staging, tile, half_features, arguments);
    }
  }
}

}  // namespace conclave::sm90

#endif  // CONCLAVE_MOE_KERNELS_CUDA_SM90_FP8_GROUPED_FFN_CUH_
