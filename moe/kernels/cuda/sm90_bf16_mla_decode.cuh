// MLA decode on Hopper's tensor cores: 64 heads of one row against one split of its cache are one work; a block of threads
// stays on its multiprocessor and takes work after work, the next one's query and tokens arriving while this one ends.
//
// Producer warps bring blocks of 64 tokens (nine panels of 64 columns: eight of the latent, one of the rotated part) to
// shared memory, which has room for two. One warpgroup takes the scores of even blocks, the other those of odd ones, and both
// share the weighted sum: each holds 256 of the 512 latent columns of all 64 heads. Weights of its own blocks a warpgroup has
// in registers; for the other they replace the block's rotated part, which nobody needs once its scores are known. So of
// either block the columns of the warpgroup that took its scores are free first, and the scores of the next begin with them.
#ifndef CONCLAVE_MOE_KERNELS_CUDA_SM90_BF16_MLA_DECODE_CUH_
#define CONCLAVE_MOE_KERNELS_CUDA_SM90_BF16_MLA_DECODE_CUH_

#include "moe/kernels/cuda/overlap.cuh"
#include "moe/kernels/cuda/sm90_bf16_mla_consumer.cuh"
#include "moe/kernels/cuda/sm90_fp8_mla_producer.cuh"

namespace conclave::sm90::mla {

// A row's only split → bfloat16, 16 bytes a lane: four lanes hold 64 bytes of a row after they exchanged pairs.
template <int kWarpgroup>
__device__ inline void StoreOnly(const Consumer& c, const MlaDecode& p, const Work& work, float2 denominators) {
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int head = work.head + c.row + 8 * h;
    const float inverse = 1.0f / (h == 0 ? denominators.x : denominators.y);  // 128 divisions take longer than a block's products
    __nv_bfloat16* out = static_cast<__nv_bfloat16*>(p.out) + (static_cast<int64_t>(work.row) * p.heads + head) * kLatent +
                         256 * kWarpgroup + c.lane % 4 * 8;
#pragma unroll
    for (int group = 0; group < 8; ++group) {
      uint32_t pairs[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int j = 4 * group + i;
        const __nv_bfloat162 pair = __floats2bfloat162_rn(c.sum[4 * j + 2 * h] * inverse, c.sum[4 * j + 2 * h + 1] * inverse);
        pairs[i] = *reinterpret_cast<const uint32_t*>(&pair);
      }
      const uint4 eight = TransposeFourLanes(pairs);
      if (head < p.heads) *reinterpret_cast<uint4*>(out + 32 * group) = eight;
    }
  }
}

// Of several splits each leaves its sum, maximum and denominator for the merge.
template <int kWarpgroup>
__device__ inline void StorePart(const Shared& s, const Consumer& c, const MlaDecode& p, const Work& work, float2 denominators) {
  const int splits_max = (p.tokens_max + kMlaSplitTokens - 1) / kMlaSplitTokens;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int head = work.head + c.row + 8 * h;
    if (head >= p.heads) continue;
    const int64_t part = (static_cast<int64_t>(work.row) * p.heads + head) * splits_max + work.split;
    float* out = static_cast<float*>(p.workspace) + part * kLatent + 256 * kWarpgroup + c.lane % 4 * 2;
#pragma unroll
    for (int j = 0; j < 32; ++j) {
      *reinterpret_cast<float2*>(out + 8 * j) = make_float2(c.sum[4 * j + 2 * h], c.sum[4 * j + 2 * h + 1]);
    }
    if (c.lane % 4 == 0 && kWarpgroup == 0) {
      float* ends = static_cast<float*>(p.workspace) + static_cast<int64_t>(p.rows) * p.heads * splits_max * kLatent;
      *reinterpret_cast<float2*>(ends + 2 * part) = make_float2(s.maximum[c.row + 8 * h], h == 0 ? denominators.x : denominators.y);
    }
  }
}

// A row without tokens.
template <int kWarpgroup>
__device__ inline void StoreZeros(const MlaDecode& p, const Work& work) {
  uint4* out = reinterpret_cast<uint4*>(static_cast<__nv_bfloat16*>(p.out) + (static_cast<int64_t>(work.row) * p.heads + work.head) * kLatent);
  const int count = min(kHeads, p.heads - work.head) * (kLatent / 8);
  for (int i = threadIdx.x; i < count; i += kConsumers) out[i] = make_uint4(0, 0, 0, 0);
}

template <int kWarpgroup, bool kPacked>
__device__ inline void RunWarpgroup(Shared& s, const MlaDecode& p) {
  Consumer c;
  c.lane = threadIdx.x % 32;
  c.row = threadIdx.x % 128 / 32 * 16 + c.lane / 4;
  const float scale_log2 = p.scale * 1.44269504f;
  for (int number = 0;; ++number) {
    BarrierWait(&s.query_full, number & 1);
    const Work& work = s.work[number & 1];
    if (work.row < 0) return;
    // The compiler must see that warps do not part.
    const int blocks = __shfl_sync(~0u, work.blocks, 0), tokens = __shfl_sync(~0u, work.tokens, 0);
#pragma unroll
    for (int i = 0; i < 128; ++i) c.sum[i] = 0.0f;
    c.denominator[0] = c.denominator[1] = 0.0f;
    if (blocks == 0) {
      FreeQuery(s);
      StoreZeros<kWarpgroup>(p, work);
      BarrierArrive(&s.denominators_full);
      BarrierWait(&s.denominators_full, number & 1);
      continue;
    }
    if constexpr (kWarpgroup == 0) {
      ConsumeEven<kPacked>(s, c, tokens, blocks, scale_log2);
    } else {
      ConsumeOdd<kPacked>(s, c, tokens, blocks, scale_log2);
    }
#pragma unroll
    for (int i = 0; i < 128; ++i) WgmmaTouch(c.sum[i]);
    const float2 denominators = Denominators<kWarpgroup>(s, c, blocks, number);
    if (work.splits == 1) {
      StoreOnly<kWarpgroup>(c, p, work, denominators);
    } else {
      StorePart<kWarpgroup>(s, c, p, work, denominators);
    }
    c.first += blocks;
  }
}

// `producers`: threads that arrive for each part of a block.
__device__ inline void InitBarriers(Shared& s, int producers) {
  BarrierInit(&s.query_full, 1);
  BarrierInit(&s.query_empty, kConsumers);
  BarrierInit(&s.denominators_full, kConsumers);
  for (int stage = 0; stage < kStages; ++stage) {
    for (int part = 0; part < kParts; ++part) {
      BarrierInit(&s.full[stage][part], producers);
      BarrierInit(&s.empty[stage][part], part < 2 ? 4 : 8);  // warps
    }
    BarrierInit(&s.maxima[stage], 128);
    BarrierInit(&s.weights[stage], 128);
  }
  FenceBarrierInit();
}

// kPacked: from a cache in eight bits.
template <bool kPacked>
__global__ void __launch_bounds__(kThreads, 1)
    DecodeKernel(const __grid_constant__ Maps maps, const __grid_constant__ MlaDecode p) {
  extern __shared__ uint8_t unaligned[];
  Shared& s = *reinterpret_cast<Shared*>((reinterpret_cast<uintptr_t>(unaligned) + 1023) / 1024 * 1024);
  if (threadIdx.x == 0) InitBarriers(s, kPacked ? 32 * kProducerWarps : 1);
  __syncthreads();
  conclave::cuda::FollowKernelsBefore();
  if (threadIdx.x >= kConsumers) {
    RegistersDown<kPacked ? 72 : 56>();  // 16 registers that widening would have to spill
    if constexpr (kPacked) return ProducePacked(s, maps, p);
    if (threadIdx.x / 32 == kConsumers / 32) Producer<0>(s, maps, p).Run();
    if (threadIdx.x / 32 == kConsumers / 32 + 1) Producer<1>(s, maps, p).Run();
    if (threadIdx.x / 32 == kConsumers / 32 + 2) Producer<2>(s, maps, p).Run();
  } else if (threadIdx.x < 128) {
    RegistersUp<kPacked ? 216 : 224>();
    RunWarpgroup<0, kPacked>(s, p);
  } else {
    RegistersUp<kPacked ? 216 : 224>();
    RunWarpgroup<1, kPacked>(s, p);
  }
}

// One block of threads per row and head, four columns a thread: the splits of rows that have several, in ascending order.
__global__ void __launch_bounds__(kLatent / 4) MergeKernel(const __grid_constant__ MlaDecode p, int splits_max) {
  conclave::cuda::FollowKernelsBefore();
  const int64_t row = blockIdx.x;
  const int splits = (__ldg(p.lengths + row / p.heads) + kMlaSplitTokens - 1) / kMlaSplitTokens;
  if (splits <= 1) return;
  const float4* sums = static_cast<const float4*>(p.workspace) + row * splits_max * (kLatent / 4) + threadIdx.x;
  const float2* ends = reinterpret_cast<const float2*>(static_cast<const float*>(p.workspace) +
                                                       static_cast<int64_t>(p.rows) * p.heads * splits_max * kLatent) + row * splits_max;
  float4 sum = sums[0];
  float maximum = ends[0].x, denominator = ends[0].y;
  float4 following = sums[kLatent / 4];
  float2 following_end = ends[1];
  for (int split = 1; split < splits; ++split) {
    const float4 next = following;
    const float2 end = following_end;
    if (split + 1 < splits) {
      following = sums[(split + 1) * (kLatent / 4)];
      following_end = ends[split + 1];
    }
    const float larger = fmaxf(maximum, end.x);
    const float shrink = exp2f(maximum - larger), of_next = exp2f(end.x - larger);
    sum.x = __fmaf_rn(sum.x, shrink, next.x * of_next);
    sum.y = __fmaf_rn(sum.y, shrink, next.y * of_next);
    sum.z = __fmaf_rn(sum.z, shrink, next.z * of_next);
    sum.w = __fmaf_rn(sum.w, shrink, next.w * of_next);
    denominator = __fmaf_rn(denominator, shrink, end.y * of_next);
    maximum = larger;
  }
  __nv_bfloat162* out = reinterpret_cast<__nv_bfloat162*>(static_cast<__nv_bfloat16*>(p.out) + row * kLatent) + 2 * threadIdx.x;
  out[0] = __floats2bfloat162_rn(sum.x / denominator, sum.y / denominator);
  out[1] = __floats2bfloat162_rn(sum.z / denominator, sum.w / denominator);
}

}  // namespace conclave::sm90::mla

#endif  // CONCLAVE_MOE_KERNELS_CUDA_SM90_BF16_MLA_DECODE_CUH_
