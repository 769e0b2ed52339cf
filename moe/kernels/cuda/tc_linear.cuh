// Products on tensor cores over weights of bfloat16 or e4m3, with activations rounded to bfloat16 once (kBf16) or
// carried as the sum of two bfloat16 numbers, sixteen bits of mantissa (kSplit).
//
// One order of accumulation for every output, whatever the number of rows: blocks of 128 along K are dealt to eight
// slices, block b to slice b % 8, and slices join in ascending order. Within a block eight m16n8k16 instructions add up
// 16 columns each. Over e4m3 a block's sum, times its weights' scale, joins its slice. Over bfloat16 the instructions
// go on through a slice's blocks, the two terms of activations apart, and their two sums are added.
//
// Two kernels keep that order: for few rows a warp owns a slice, for many rows a warp owns 16 features and walks the
// slices one by one. So does sm90_bf16_split_linear.cuh over bfloat16.
#pragma once

#include <type_traits>

#include "moe/kernels/cuda/device_ops.cuh"

namespace conclave::cuda::tc {

inline constexpr int kBlockK = 128;
inline constexpr int kSlices = 8;
inline constexpr int kFeatures = 16;  // of one instruction

// Where in 64 columns of K the four begin that lane t of each four brings to instruction `step`. Over bfloat16 an
// instruction has 16 neighbouring columns, as wgmma's have; over e4m3 a lane's 16 weights are neighbours, one load.
template <DType kType>
__device__ __forceinline__ int LaneColumn(int step, int t) {
  return kType == DType::kBF16 ? step * 16 + t * 4 : t * 16 + step * 4;
}

// A lane's 16 weights of one row and 64 columns as the bfloat16 pairs of four instructions: [step][pair].
template <DType kType>
struct WeightRun {
  uint4 raw;  // e4m3

  // `index`: of the first of the 64 columns.
  __device__ void Load(const void* data, int64_t index) {
    raw = __ldg(reinterpret_cast<const uint4*>(static_cast<const uint8_t*>(data) + index +
                                               LaneColumn<kType>(0, threadIdx.x & 3)));
  }
  __device__ static uint32_t Widen(uint32_t two) {
    const __half2 halves(__nv_cvt_fp8x2_to_halfraw2(static_cast<__nv_fp8x2_storage_t>(two), __NV_E4M3));
    const float2 floats = __half22float2(halves);
    const __nv_bfloat162 pair = __floats2bfloat162_rn(floats.x, floats.y);
    return *reinterpret_cast<const uint32_t*>(&pair);
  }
  __device__ uint32_t Pair(int step, int half) const {
    const uint32_t word = reinterpret_cast<const uint32_t*>(&raw)[step];
    return Widen(half == 0 ? word & 0xffffu : word >> 16);
  }
};
template <>
struct WeightRun<DType::kBF16> {
  uint2 raw[4];

  __device__ void Load(const void* data, int64_t index) {
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      const int64_t at = index + LaneColumn<DType::kBF16>(step, threadIdx.x & 3);
      raw[step] = __ldg(reinterpret_cast<const uint2*>(static_cast<const uint16_t*>(data) + at));
    }
  }
  __device__ uint32_t Pair(int step, int half) const { return half == 0 ? raw[step].x : raw[step].y; }
};

// Four neighbouring activations in one load.
template <typename X>
using Four = std::conditional_t<sizeof(X) == 2, uint2, float4>;

// Two floats as a bfloat16 pair, and what rounding lost as another.
__device__ inline uint32_t HighPair(float a, float b) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(a, b);
  return *reinterpret_cast<const uint32_t*>(&pair);
}
__device__ inline uint32_t LowPair(float a, float b, uint32_t high) {
  return HighPair(a - __uint_as_float(high << 16), b - __uint_as_float(high & 0xffff0000u));
}

// c[16 features, 8 rows] += w[16, 16] · x[16, 8].
__device__ inline void Multiply(float (&c)[4], const uint32_t (&w)[4], uint32_t x0, uint32_t x1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(w[0]), "r"(w[1]), "r"(w[2]), "r"(w[3]), "r"(x0), "r"(x1));
}

// The weights of one block of K for 16 features: two halves of 64 columns, two features (g and g + 8) a lane.
template <DType kType>
struct WeightBlock {
  WeightRun<kType> runs[2][2];  // [half][feature]

  __device__ void Load(const DeviceWeight& w, int64_t base_low, int64_t base_high, int64_t k) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      runs[half][0].Load(w.data, base_low + k + half * 64);
      runs[half][1].Load(w.data, base_high + k + half * 64);
    }
  }
  __device__ void Fragment(int half, int step, uint32_t (&w)[4]) const {
    w[0] = runs[half][0].Pair(step, 0);
    w[1] = runs[half][1].Pair(step, 0);
    w[2] = runs[half][0].Pair(step, 1);
    w[3] = runs[half][1].Pair(step, 1);
  }
};

// slice = slice + block * scale, the block zero again; without scales the block's sums are the slice's already.
__device__ inline void JoinSlice(float (&slice)[4], float (&block)[4], float scale_low, float scale_high) {
  slice[0] = fmaf(block[0], scale_low, slice[0]);
  slice[1] = fmaf(block[1], scale_low, slice[1]);
  slice[2] = fmaf(block[2], scale_high, slice[2]);
  slice[3] = fmaf(block[3], scale_high, slice[3]);
  block[0] = block[1] = block[2] = block[3] = 0.0f;
}

// Sums that a slice has for one output.
template <DType kType, int kTerms>
inline constexpr int kSumsOf = kType == DType::kBF16 ? kTerms : 1;

// slice = the sums of bfloat16's terms, which are zero again.
template <int kSums>
__device__ inline void JoinTerms(float (&slice)[4], float (&sums)[kSums][4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    slice[i] = kSums == 2 ? sums[0][i] + sums[kSums - 1][i] : sums[0][i];
    sums[0][i] = sums[kSums - 1][i] = 0.0f;
  }
}

}  // namespace conclave::cuda::tc
