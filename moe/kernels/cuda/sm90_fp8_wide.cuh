// The same product for many rows an expert: rows are the wgmma's first operand and features its second, so that a thread
// holds few rows and needs few scales. Products and the order of sums are those of sm90_fp8_mainloop.cuh, and so are the
// bits: grouped_ffn_bench compares them.
#ifndef CONCLAVE_MOE_KERNELS_CUDA_SM90_FP8_WIDE_CUH_
#define CONCLAVE_MOE_KERNELS_CUDA_SM90_FP8_WIDE_CUH_

#include "moe/kernels/cuda/sm90_fp8_mainloop.cuh"

namespace conclave::sm90 {

inline constexpr int kWideTokens = 128;  // rows of a tile, 64 a warpgroup

// The two warpgroups take turns at the tensor cores: while one multiplies, the other adds up. Left alone
// they fall into step, multiply together and add up together, and the tensor cores idle a third of the time.
struct Turns {
    static constexpr int kFirstBarrier = 3;  // barriers 1 and 2 are the narrow epilogue's
  // The second warpgroup grants the first one its first turn.
  static __device__ void Begin(int warpgroup) {
    if (warpgroup == 1) NamedBarrierArrive(kFirstBarrier, kConsumers);
  }
  static __device__ void Take(int warpgroup) {
    NamedBarrier(kFirstBarrier + warpgroup, kConsumers);
  }
  static __device__ void Pass(int warpgroup) {
    NamedBarrierArrive(kFirstBarrier + 1 - warpgroup, kConsumers);
  }
};

// Multiplies one tile. acc[h] holds this thread's part of D[64 rows, 128 features] of half h (layout: WgmmaE4M3).
__device__ inline void ConsumeWideTile(Ring<kWideTokens>& ring, const float* const (&weight_scales)[2], int k_blocks,
                                       float (&acc)[2][64]) {
  const int warpgroup = threadIdx.x / 128, lane = threadIdx.x % 32;
  const int row = threadIdx.x / 32 * 16 + lane / 4;  // and row + 8
#pragma unroll
  for (int i = 0; i < 64; ++i) acc[0][i] = acc[1][i] = 0.0f;
  float next_scales[2] = {__ldg(weight_scales[0]), __ldg(weight_scales[1])};
  for (int block = 0; block < k_blocks; ++block) {
    const float scale_of_half[2] = {next_scales[0], next_scales[1]};
    if (block + 1 < k_blocks) {
      next_scales[0] = __ldg(weight_scales[0] + block + 1);
      next_scales[1] = __ldg(weight_scales[1] + block + 1);
    }
    BarrierWait(&ring.full[ring.index], ring.phase);
    const uint64_t a = OperandDescriptor(ring.rows() + warpgroup * 64 * kBlockK);
    const float of_rows[2] = {ring.row_scales()[row], ring.row_scales()[row + 8]};
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const uint64_t b = OperandDescriptor(ring.weights() + half * kHalfFeatures * kBlockK);
      float partial[64];
#pragma unroll
      for (int i = 0; i < 64; ++i) WgmmaTouch(partial[i]);
      Turns::Take(warpgroup);
      WgmmaFence();
#pragma unroll
      for (int step = 0; step < kBlockK / 32; ++step) {
        WgmmaE4M3<128>::Run(partial, a + 2 * step, b + 2 * step, step > 0);
        if (step >= kBlockK / 32 - 2) WgmmaCommit();
      }
#pragma unroll
      for (int i = 0; i < 64; ++i) WgmmaTouch(partial[i]);
      WgmmaWait<1>();  // the last step still runs while the turn changes hands
      Turns::Pass(warpgroup);
      WgmmaWait<0>();
      if (half == 1 && lane == 0) BarrierArrive(&ring.empty[ring.index]);
      const float s[2] = {scale_of_half[half] * of_rows[0], scale_of_half[half] * of_rows[1]};
#pragma unroll
      for (int i = 0; i < 64; ++i) acc[half][i] = __fmaf_rn(partial[i], s[i / 2 % 2], acc[half][i]);
      // The sums belong before the next turn; the compiler would rather put them behind its barrier.
#pragma unroll
      for (int i = 0; i < 64; ++i) WgmmaTouch(acc[half][i]);
    }
    ring.Advance();
  }
}

// Among four lanes: lane q gives v[0 … 3] and gets v[q] of lanes 0 … 3.
__device__ inline uint4 TransposeFourLanes(const uint32_t (&v)[4]) {
  const int q = threadIdx.x % 4;
  // Two rounds of swaps, one per bit of the lane.
  const uint32_t a0 = __shfl_xor_sync(~0u, q & 1 ? v[0] : v[1], 1), a1 = __shfl_xor_sync(~0u, q & 1 ? v[2] : v[3], 1);
  const uint32_t even[2] = {q & 1 ? a0 : v[0], q & 1 ? v[1] : a0};  // of index (q & 1), from lanes q & ~1 and the next
  const uint32_t odd[2] = {q & 1 ? a1 : v[2], q & 1 ? v[3] : a1};   // of index 2 + (q & 1)
  const uint32_t b0 = __shfl_xor_sync(~0u, q & 2 ? even[0] : odd[0], 2), b1 = __shfl_xor_sync(~0u, q & 2 ? even[1] : odd[1], 2);
  return q & 2 ? make_uint4(b0, b1, odd[0], odd[1]) : make_uint4(even[0], even[1], b0, b1);
}

// acc → bf16 → rows of [rows, features], 16 bytes a lane.
__device__ inline void StoreWideBf16(const float (&acc)[2][64], const Tile& tile, const int (&half_features)[2],
                                     const KernelArguments& arguments) {
  const int lane = threadIdx.x % 32;
  __nv_bfloat16* out = static_cast<__nv_bfloat16*>(arguments.out);
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int row = threadIdx.x / 32 * 16 + lane / 4 + 8 * h;
    __nv_bfloat16* of_row = out + static_cast<int64_t>(tile.row_begin + row) * arguments.features;
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
        if (row < tile.rows) *reinterpret_cast<uint4*>(of_row + feature) = eight;
      }
    }
  }
}

// silu(gate) · up, the largest magnitude of each row over the tile's 128 features, and e4m3 with that scale.
__device__ inline void StoreWideSwiGluQuantised(float (&acc)[2][64], const Tile& tile, const KernelArguments& arguments) {
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
      arguments.out_scales[static_cast<int64_t>(tile.feature_tile) * arguments.out_scale_stride + tile.row_begin + row] = scale;
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
