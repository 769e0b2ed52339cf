// MLA decode on Hopper's tensor cores: 64 heads of one row against one split of its cache.
//
// Producer warps bring blocks of 64 tokens (nine panels of 64 columns: eight of the latent, one of the rotated part) to
// shared memory, which has room for two. One warpgroup takes the scores of even blocks, the other those of odd ones, and both
// share the weighted sum: each holds 256 of the 512 latent columns of all 64 heads. So the softmax of either runs beside
// products of the other. The weights of a block replace its rotated part, which nobody needs once its scores are known.
#ifndef CONCLAVE_MOE_KERNELS_CUDA_SM90_BF16_MLA_DECODE_CUH_
#define CONCLAVE_MOE_KERNELS_CUDA_SM90_BF16_MLA_DECODE_CUH_

#include "moe/kernels/cuda/overlap.cuh"
#include "moe/kernels/cuda/sm90_bf16_mla_consumer.cuh"
#include "moe/kernels/cuda/sm90_fp8_mla_producer.cuh"

namespace conclave::sm90::mla {

// The row's only split leaves as bfloat16; of several, each leaves its sum, maximum and denominator for the merge.
template <int kWarpgroup>
__device__ inline void StoreResult(const Shared& s, const Consumer& c, const MlaDecode& p, const Work& work, float2 denominators,
                                   int splits_max) {
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int head = work.head + c.row + 8 * h;
    if (head >= p.heads) continue;
    const int64_t row = static_cast<int64_t>(work.row) * p.heads + head;
    const int column = 256 * kWarpgroup + c.lane % 4 * 2;
    const float denominator = h == 0 ? denominators.x : denominators.y;
    if (work.splits == 1) {
      const float inverse = 1.0f / denominator;  // 128 divisions would take longer than a block's products
      __nv_bfloat16* out = static_cast<__nv_bfloat16*>(p.out) + row * kLatent + column;
#pragma unroll
      for (int j = 0; j < 32; ++j) {
        *reinterpret_cast<__nv_bfloat162*>(out + 8 * j) =
            __floats2bfloat162_rn(c.sum[4 * j + 2 * h] * inverse, c.sum[4 * j + 2 * h + 1] * inverse);
      }
      continue;
    }
    const int64_t part = row * splits_max + work.split;
    float* out = static_cast<float*>(p.workspace) + part * kLatent + column;
#pragma unroll
    for (int j = 0; j < 32; ++j) {
      *reinterpret_cast<float2*>(out + 8 * j) = make_float2(c.sum[4 * j + 2 * h], c.sum[4 * j + 2 * h + 1]);
    }
    if (c.lane % 4 == 0 && kWarpgroup == 0) {
      float* ends = static_cast<float*>(p.workspace) + static_cast<int64_t>(p.rows) * p.heads * splits_max * kLatent;
      *reinterpret_cast<float2*>(ends + 2 * part) = make_float2(s.maximum[c.row + 8 * h], denominator);
    }
  }
}

template <int kWarpgroup>
__device__ inline void RunWarpgroup(Shared& s, const MlaDecode& p, const Work& work) {
  Consumer c;
  c.lane = threadIdx.x % 32;
  c.row = threadIdx.x % 128 / 32 * 16 + c.lane / 4;
#pragma unroll
  for (int i = 0; i < 128; ++i) c.sum[i] = 0.0f;
  c.denominator[0] = c.denominator[1] = 0.0f;
  const float scale_log2 = p.scale * 1.44269504f;
  BarrierWait(&s.query_full, 0);
  if constexpr (kWarpgroup == 0) {
    ConsumeEven(s, c, work.tokens, work.blocks, scale_log2);
  } else {
    ConsumeOdd(s, c, work.tokens, work.blocks, scale_log2);
  }
#pragma unroll
  for (int i = 0; i < 128; ++i) WgmmaTouch(c.sum[i]);
  StoreResult<kWarpgroup>(s, c, p, work, Denominators<kWarpgroup>(s, c, work.blocks), gridDim.y);
}

// Together what a block of threads has.
template <bool kPacked>
inline constexpr int kProducerRegisters = kPacked ? 56 : 40;
template <bool kPacked>
inline constexpr int kConsumerRegisters = kPacked ? 224 : 232;

// kPacked: from a cache in eight bits.
template <bool kPacked>
__global__ void __launch_bounds__(kThreads, 1)
    DecodeKernel(const __grid_constant__ Maps maps, const __grid_constant__ MlaDecode p) {
  extern __shared__ uint8_t unaligned[];
  Shared& s = *reinterpret_cast<Shared*>((reinterpret_cast<uintptr_t>(unaligned) + 1023) / 1024 * 1024);
  conclave::cuda::FollowKernelsBefore();
  const Work work = ThisWork(p);
  if (work.tokens <= 0 && !(work.split == 0 && work.splits == 0)) return;
  if (work.splits == 0) {  // no position to attend to
    __nv_bfloat16* out = static_cast<__nv_bfloat16*>(p.out) + (static_cast<int64_t>(work.row) * p.heads + work.head) * kLatent;
    for (int i = threadIdx.x; i < min(kHeads, p.heads - work.head) * kLatent; i += kThreads) out[i] = __float2bfloat16_rn(0.0f);
    return;
  }
  if (threadIdx.x == 0) {
    BarrierInit(&s.query_full, 1);
    BarrierInit(&s.denominators_full, kConsumers);
    for (int stage = 0; stage < kStages; ++stage) {
      for (int part = 0; part < kParts; ++part) {
        BarrierInit(&s.full[stage][part], kPacked ? kProducerWarps : 1);
        BarrierInit(&s.empty[stage][part], part < 2 ? 4 : 8);  // warps
      }
      BarrierInit(&s.maxima[stage], 128);
      BarrierInit(&s.weights[stage], 128);
    }
    FenceBarrierInit();
  }
  if (threadIdx.x < kHeads) s.maximum[threadIdx.x] = -INFINITY;
  __syncthreads();
  if (threadIdx.x >= kConsumers) {
    RegistersDown<kProducerRegisters<kPacked>>();
    if constexpr (kPacked) return ProducePacked(s, maps, p, work);
    if (threadIdx.x == kConsumers) Produce<0>(s, maps, p, work);
    if (threadIdx.x == kConsumers + 32) Produce<1>(s, maps, p, work);
    if (threadIdx.x == kConsumers + 64) Produce<2>(s, maps, p, work);
  } else if (threadIdx.x < 128) {
    RegistersUp<kConsumerRegisters<kPacked>>();
    RunWarpgroup<0>(s, p, work);
  } else {
    RegistersUp<kConsumerRegisters<kPacked>>();
    RunWarpgroup<1>(s, p, work);
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
  for (int split = 1; split < splits; ++split) {
    const float4 next = sums[split * (kLatent / 4)];
    const float2 end = ends[split];
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
