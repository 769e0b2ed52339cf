// What becomes of a work's sum in MLA decode on Hopper: see sm90_bf16_mla_decode.cuh. A row's only split is divided and
// stored. Where a row has two and one block of threads takes both, the first one's sum waits in the workspace, in the
// order in which threads hold it, until the second's is there. All other splits leave their parts to MergeKernel.
// Merging is the same arithmetic in either case, so that a row's bits do not depend on who computes it.
#ifndef CONCLAVE_MOE_KERNELS_CUDA_SM90_BF16_MLA_RESULTS_CUH_
#define CONCLAVE_MOE_KERNELS_CUDA_SM90_BF16_MLA_RESULTS_CUH_

#include "moe/kernels/cuda/sm90_bf16_mla_consumer.cuh"

namespace conclave::sm90::mla {

// The maxima of a thread's two rows over some splits, and their denominators.
struct Ends {
  float maximum[2], denominator[2];
};

// Of all blocks of a work. Every consumer thread calls it once for each.
__device__ inline Ends EndsOfWork(Shared& s, const Consumer& c, int blocks, int number, int warpgroup) {
  Ends ends;
  float (&of_work)[2][kHeads] = s.denominators[number & 1];
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    float of_row = c.denominator[h];
    if ((blocks - 1) % 2 != warpgroup) of_row *= s.shrink[Place(c.first + blocks - 1).stage][c.row + 8 * h];
    of_row += __shfl_xor_sync(~0u, of_row, 1);
    of_row += __shfl_xor_sync(~0u, of_row, 2);
    if (c.lane % 4 == 0) of_work[warpgroup][c.row + 8 * h] = of_row;
    ends.maximum[h] = s.maximum[c.row + 8 * h];  // before either warpgroup can begin the next work
  }
  BarrierArrive(&s.denominators_full);
  BarrierWait(&s.denominators_full, number & 1);
#pragma unroll
  for (int h = 0; h < 2; ++h) ends.denominator[h] = of_work[0][c.row + 8 * h] + of_work[1][c.row + 8 * h];
  return ends;
}

__device__ __forceinline__ uint32_t Pair(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&pair);
}

// Where a thread's results go: eight rows of 32 columns at a time pass through the warp's scratch, after which four
// lanes hold 64 bytes of a row.
struct OutLane {
  uint8_t* give;       // of the scratch
  const uint4* take;
  __nv_bfloat16* out;  // of the thread's first head
  int heads_left;      // from the thread's first head on

  __device__ OutLane(Shared& s, const Consumer& c, const MlaDecode& p, const Work& work, int warpgroup) {
    uint8_t* const scratch = s.scratch[threadIdx.x / 32];
    const int row = c.lane % 8, taken = c.lane / 4;
    give = scratch + row * 64 + ((c.lane / 8 ^ row / 2) << 4);
    take = reinterpret_cast<const uint4*>(scratch + taken * 64 + ((c.lane % 4 ^ taken / 2) << 4));
    out = static_cast<__nv_bfloat16*>(p.out) +
          (static_cast<int64_t>(work.row) * p.heads + work.head + c.row) * kLatent + 256 * warpgroup + c.lane % 4 * 8;
    heads_left = p.heads - work.head - c.row;
  }

  // Columns [32 group, 32 group + 32) of row 0 or 8.
  __device__ __forceinline__ void Store(const uint32_t (&pairs)[4], int group, int h) const {
    __syncwarp();
    StoreMatrices(give, pairs);
    __syncwarp();
    if (heads_left > 8 * h) *reinterpret_cast<uint4*>(out + 8 * h * kLatent + 32 * group) = *take;
  }
};

// A row's only split → bfloat16.
__device__ inline void StoreOnly(Shared& s, const Consumer& c, const MlaDecode& p, const Work& work, const Ends& ends,
                                 int warpgroup) {
  const OutLane lane(s, c, p, work, warpgroup);
  // 128 divisions would take longer than a block's products.
  const float inverse[2] = {1.0f / ends.denominator[0], 1.0f / ends.denominator[1]};
#pragma unroll
  for (int group = 0; group < 8; ++group) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      uint32_t pairs[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float* const two = &c.sum[16 * group + 4 * i + 2 * h];
        pairs[i] = Pair(two[0] * inverse[h], two[1] * inverse[h]);
      }
      lane.Store(pairs, group, h);
    }
  }
}

// A split's sum, maximum and denominator, for MergeKernel.
__device__ inline void StorePart(const Consumer& c, const MlaDecode& p, const Work& work, const Ends& of_split,
                                 int warpgroup) {
  const int splits_max = (p.tokens_max + kMlaSplitTokens - 1) / kMlaSplitTokens;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int head = work.head + c.row + 8 * h;
    if (head >= p.heads) continue;
    const int64_t part = (static_cast<int64_t>(work.row) * p.heads + head) * splits_max + work.split;
    float* out = static_cast<float*>(p.workspace) + part * kLatent + 256 * warpgroup + c.lane % 4 * 2;
#pragma unroll
    for (int j = 0; j < 32; ++j) {
      *reinterpret_cast<float2*>(out + 8 * j) = make_float2(c.sum[4 * j + 2 * h], c.sum[4 * j + 2 * h + 1]);
    }
    if (c.lane % 4 == 0 && warpgroup == 0) {
      float* ends = static_cast<float*>(p.workspace) + static_cast<int64_t>(p.rows) * p.heads * splits_max * kLatent;
      *reinterpret_cast<float2*>(ends + 2 * part) = make_float2(of_split.maximum[h], of_split.denominator[h]);
    }
  }
}

// How a row's splits are merged, wherever that is done: sum · before + next · after, in ascending order.
struct MergeFactors {
  float maximum, before, after;
  __device__ MergeFactors(float maximum_before, float maximum_after)
      : maximum(fmaxf(maximum_before, maximum_after)),
        before(exp2f(maximum_before - maximum)),
        after(exp2f(maximum_after - maximum)) {}
  __device__ float operator()(float sum, float next) const { return __fmaf_rn(sum, before, next * after); }
};

// Where a first split's sum waits: of a warp 16 heads, lanes side by side. A warp without heads looks at what the first
// one keeps, for the sake of addresses, and keeps nothing.
struct Kept {
  bool some;
  float4* at;
  __device__ Kept(const Consumer& c, const MlaDecode& p, const Work& work, int warpgroup) {
    const int splits_max = (p.tokens_max + kMlaSplitTokens - 1) / kMlaSplitTokens, row = c.row - c.lane / 4;
    some = work.head + row < p.heads;
    const int64_t first = static_cast<int64_t>(work.row) * p.heads * splits_max + work.head + (some ? row : 0);
    at = static_cast<float4*>(p.workspace) + first * (kLatent / 4) + warpgroup * (16 * kLatent / 8) + c.lane;
  }
};

// The first of a whole row's two splits.
__device__ inline void Keep(Shared& s, const Consumer& c, const MlaDecode& p, const Work& work, const Ends& ends,
                            int warpgroup) {
  const Kept kept(c, p, work, warpgroup);
  if (!kept.some) return;
#pragma unroll
  for (int i = 0; i < 32; ++i) {
    __stcg(kept.at + 32 * i, make_float4(c.sum[4 * i], c.sum[4 * i + 1], c.sum[4 * i + 2], c.sum[4 * i + 3]));
  }
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    if (c.lane % 4 == 0 && warpgroup == 0)
      s.ends_kept[c.row + 8 * h] = make_float2(ends.maximum[h], ends.denominator[h]);
  }
}

// Four of a thread's float4 of a kept sum: what becomes 32 columns of two heads.
__device__ __forceinline__ void LoadKept(float4 (&four)[4], const float4* from) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    asm volatile("ld.global.cg.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(four[i].x), "=f"(four[i].y), "=f"(four[i].z), "=f"(four[i].w)
                 : "l"(from + 32 * i)
                 : "memory");
  }
}

// The second: merged with the first → bfloat16.
__device__ inline void StoreMerged(Shared& s, const Consumer& c, const MlaDecode& p, const Work& work, const Ends& ends,
                                   int warpgroup) {
  constexpr int kAhead = 3;  // groups on their way
  const Kept kept(c, p, work, warpgroup);
  const OutLane lane(s, c, p, work, warpgroup);
  const float2 first[2] = {s.ends_kept[c.row], s.ends_kept[c.row + 8]};
  const MergeFactors merge[2] = {{first[0].x, ends.maximum[0]}, {first[1].x, ends.maximum[1]}};
  const float inverse[2] = {1.0f / merge[0](first[0].y, ends.denominator[0]),
                            1.0f / merge[1](first[1].y, ends.denominator[1])};
  float4 groups[kAhead][4];
#pragma unroll
  for (int group = 0; group < kAhead; ++group) LoadKept(groups[group], kept.at + 128 * group);
#pragma unroll
  for (int group = 0; group < 8; ++group) {
    uint32_t pairs[2][4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float4 before = groups[group % kAhead][i];
      const float* const sum = &c.sum[16 * group + 4 * i];
      pairs[0][i] = Pair(merge[0](before.x, sum[0]) * inverse[0], merge[0](before.y, sum[1]) * inverse[0]);
      pairs[1][i] = Pair(merge[1](before.z, sum[2]) * inverse[1], merge[1](before.w, sum[3]) * inverse[1]);
    }
    if (group + kAhead < 8) LoadKept(groups[group % kAhead], kept.at + 128 * (group + kAhead));
#pragma unroll
    for (int h = 0; h < 2; ++h) lane.Store(pairs[h], group, h);
  }
}

// A row without tokens.
__device__ inline void StoreZeros(const MlaDecode& p, const Work& work) {
  uint4* out = reinterpret_cast<uint4*>(static_cast<__nv_bfloat16*>(p.out) +
                                        (static_cast<int64_t>(work.row) * p.heads + work.head) * kLatent);
  const int count = min(kHeads, p.heads - work.head) * (kLatent / 8);
  for (int i = threadIdx.x; i < count; i += kConsumers) out[i] = make_uint4(0, 0, 0, 0);
}

}  // namespace conclave::sm90::mla

#endif  // CONCLAVE_MOE_KERNELS_CUDA_SM90_BF16_MLA_RESULTS_CUH_
