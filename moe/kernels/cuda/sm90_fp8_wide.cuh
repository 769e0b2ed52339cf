// The same product for many rows an expert: rows are the wgmma's first operand and features its second, so that a
// thread holds few rows and needs few scales. Products and the order of sums are those of sm90_fp8_mainloop.cuh, and so
// are the bits: grouped_ffn_bench compares them.
#ifndef CONCLAVE_MOE_KERNELS_CUDA_SM90_FP8_WIDE_CUH_
#define CONCLAVE_MOE_KERNELS_CUDA_SM90_FP8_WIDE_CUH_

#include "moe/kernels/cuda/sm90_fp8_mainloop.cuh"

namespace conclave::sm90 {

inline constexpr int kWideTokens = 128;  // rows of a tile, 64 a warpgroup

// Multiplies one tile. acc[h] holds this thread's part of D[64 rows, 128 features] of half h (layout: WgmmaE4M3, but
// with neighbours swapped: partial[i] is added to acc[i ^ 1], which keeps the two in different register banks). Either
// warpgroup's sums run beside products of the other, so that every instruction here that is no product must be worth
// it: addresses are 32 bits of shared memory, and uniform.
__device__ inline void ConsumeWideTile(Ring<kWideTokens>& ring, const float* const (&weight_scales)[2], int k_blocks,
                                       float (&acc)[2][64]) {
  using Stage = Stage<kWideTokens>;
  const int warpgroup = __shfl_sync(~0u, threadIdx.x / 128, 0), lane = threadIdx.x % 32;
  const uint32_t stages = SharedAddress(ring.stages), full = SharedAddress(ring.full);
  const uint32_t scales = SharedAddress(ring.scales) + (threadIdx.x / 32 * 16 + lane / 4) * 4;  // and 8 rows on
#pragma unroll
  for (int i = 0; i < 64; ++i) acc[0][i] = acc[1][i] = 0.0f;
  float next_scales[2] = {__ldg(weight_scales[0]), __ldg(weight_scales[1])};
  for (int block = 0; block < k_blocks; ++block) {
    const float scale_of_half[2] = {next_scales[0], next_scales[1]};
    const int next = min(block + 1, k_blocks - 1);
    next_scales[0] = __ldg(weight_scales[0] + next);
    next_scales[1] = __ldg(weight_scales[1] + next);
    const uint32_t stage = stages + ring.index * Stage::kStride;
    const uint64_t b0 = OperandDescriptorAt(stage);
    const uint64_t a = OperandDescriptorAt(stage + Stage::kWeightBytes + warpgroup * 64 * kBlockK);
    BarrierWaitAt(full + 8 * ring.index, ring.phase);
    const uint32_t of_stage = scales + ring.index * (4 * Stage::kScalePitch);
    const float of_rows[2] = {LoadShared(of_stage), LoadShared(of_stage + 32)};
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const uint64_t b = b0 + half * (kHalfFeatures * kBlockK >> 4);
      const float s[2] = {scale_of_half[half] * of_rows[0], scale_of_half[half] * of_rows[1]};
      float partial[64];
#pragma unroll
      for (int i = 0; i < 64; ++i) WgmmaTouch(partial[i]);
      WgmmaFence();
#pragma unroll
      for (int step = 0; step < kBlockK / 32; ++step) {
        WgmmaE4M3<128>::Run(partial, a + 2 * step, b + 2 * step, step > 0);
      }
      WgmmaCommit();
#pragma unroll
      for (int i = 0; i < 64; ++i) WgmmaTouch(partial[i]);
      WgmmaWait<0>();
      if (half == 1 && lane == 0) BarrierArrive(&ring.empty[ring.index]);
#pragma unroll
      for (int i = 0; i < 64; ++i) acc[half][i ^ 1] = __fmaf_rn(partial[i], s[i / 2 % 2], acc[half][i ^ 1]);
    }
    ring.Advance();
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
#pragma unroll
    for (int i = 0; i < 64; i += 2) {
      const float swapped = acc[half][i];
      acc[half][i] = acc[half][i + 1];
      acc[half][i + 1] = swapped;
    }
  }
}

// acc → bf16 → rows of [rows, stride], the first `features` of each, 16 bytes a lane.
__device__ inline void StoreWideBf16(const float (&acc)[2][64], const Tile& tile, const int (&half_features)[2],
                                     int64_t stride, int features, __nv_bfloat16* out) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int row = threadIdx.x / 32 * 16 + lane / 4 + 8 * h;
    __nv_bfloat16* of_row = out + (tile.row_begin + row) * stride;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int group = 0; group < 4; ++group) {
        uint32_t pairs[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int j = 4 * group + i;
          const __nv_bfloat162 pair = __floats2bfloat162_rn(acc[half][4 * j + 2 * h], acc[half][4 * j + 2 * h + 1]);
          pairs[i] = *reinterpret_cast<const uint32_t*>(&pair);
        }
        const uint4 eight = TransposeFourLanes(pairs);
        const int feature = half_features[half] + 32 * group + 8 * (lane % 4);
        if (row < tile.rows && feature < features) *reinterpret_cast<uint4*>(of_row + feature) = eight;
      }
    }
  }
}

// silu(gate) · up, the largest magnitude of each row over the tile's 128 features, and e4m3 with that scale.
__device__ inline void StoreWideSwiGluQuantised(float (&acc)[2][64], const Tile& tile,
                                                const KernelArguments& arguments) {
  const int lane = threadIdx.x % 32;
  const int intermediate = arguments.features / 2;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int row = threadIdx.x / 32 * 16 + lane / 4 + 8 * h;
    float largest = 1e-10f;
#pragma unroll
    for (int j = 0; j < 16; ++j) {
#pragma unroll
      for (int i = 4 * j + 2 * h; i < 4 * j + 2 * h + 2; ++i) {
        acc[0][i] = SwiGlu(acc[0][i], acc[1][i]);
        largest = fmaxf(largest, fabsf(acc[0][i]));
      }
    }
    largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, 1));
    largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, 2));
    const float scale = largest / 448.0f, inverse = 1.0f / scale;
    if (row < tile.rows && lane % 4 == 0) {
      const int64_t to = static_cast<int64_t>(tile.feature_tile) * arguments.out_scale_stride + tile.row_begin + row;
      arguments.out_scales[to] = scale;
    }
    uint8_t* of_row = static_cast<uint8_t*>(arguments.out) + static_cast<int64_t>(tile.row_begin + row) * intermediate +
                      tile.feature_tile * kHalfFeatures;
#pragma unroll
    for (int group = 0; group < 2; ++group) {
      // Two features of blocks j and j + 1 make a word; four words transposed over four lanes are 16 bytes of the row
      // for two blocks each, which permutes below into features in order.
      uint32_t words[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int j = 8 * group + 2 * i;
        words[i] = QuantisePair(acc[0][4 * j + 2 * h] * inverse, acc[0][4 * j + 2 * h + 1] * inverse) |
                   QuantisePair(acc[0][4 * j + 4 + 2 * h] * inverse, acc[0][4 * j + 5 + 2 * h] * inverse) << 16;
      }
      const uint4 got = TransposeFourLanes(words);
      const uint4 ordered = make_uint4(__byte_perm(got.x, got.y, 0x5410), __byte_perm(got.z, got.w, 0x5410),
                                       __byte_perm(got.x, got.y, 0x7632), __byte_perm(got.z, got.w, 0x7632));
      if (row < tile.rows) *reinterpret_cast<uint4*>(of_row + 64 * group + 16 * (lane % 4)) = ordered;
    }
  }
}

}  // namespace conclave::sm90

#endif  // CONCLAVE_MOE_KERNELS_CUDA_SM90_FP8_WIDE_CUH_
