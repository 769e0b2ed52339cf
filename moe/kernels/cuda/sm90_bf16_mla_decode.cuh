// MLA decode on Hopper's tensor cores: 64 heads of one row against one split of its cache are one work; a block of
// threads stays on its multiprocessor and takes work after work, the next one's query and tokens arriving while this
// one ends.
//
// Producer warps bring blocks of 64 tokens (nine panels of 64 columns: eight of the latent, one of the rotated part) to
// shared memory, which has room for two. One warpgroup takes the scores of even blocks, the other those of odd ones,
// and both share the weighted sum: each holds 256 of the 512 latent columns of all 64 heads. Weights of its own blocks
// a warpgroup has in registers; for the other they replace the block's rotated part, which nobody needs once its scores
// are known. So of either block the columns of the warpgroup that took its scores are free first, and the scores of the
// next begin with them.
//
// A kernel's code comes from memory at every launch, and whatever is executed for the first time waits for it line by
// line: with half of the code, short launches take 10% less. So all producers run one loop, and both warpgroups one but
// for their blocks.
#ifndef CONCLAVE_MOE_KERNELS_CUDA_SM90_BF16_MLA_DECODE_CUH_
#define CONCLAVE_MOE_KERNELS_CUDA_SM90_BF16_MLA_DECODE_CUH_

#include "moe/kernels/cuda/overlap.cuh"
#include "moe/kernels/cuda/sm90_bf16_mla_consumer.cuh"
#include "moe/kernels/cuda/sm90_bf16_mla_results.cuh"
#include "moe/kernels/cuda/sm90_fp8_mla_producer.cuh"

namespace conclave::sm90::mla {

template <bool kPacked>
__device__ inline void Consume(Shared& s, const MlaDecode& p) {
  const int warpgroup = __shfl_sync(~0u, static_cast<int>(threadIdx.x / 128), 0);
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
    const int split = __shfl_sync(~0u, work.split, 0), splits = __shfl_sync(~0u, work.splits, 0);
    const bool whole = __shfl_sync(~0u, work.whole, 0);
#pragma unroll
    for (int i = 0; i < 128; ++i) c.sum[i] = 0.0f;
    c.denominator[0] = c.denominator[1] = 0.0f;
    if (blocks == 0) {
      FreeQuery(s);
      StoreZeros(p, work);
      BarrierArrive(&s.denominators_full);
      BarrierWait(&s.denominators_full, number & 1);
      continue;
    }
    if (warpgroup == 0) {
      ConsumeEven<kPacked>(s, c, tokens, blocks, scale_log2);
    } else {
      ConsumeOdd<kPacked>(s, c, tokens, blocks, scale_log2);
    }
#pragma unroll
    for (int i = 0; i < 128; ++i) WgmmaTouch(c.sum[i]);
    const Ends ends = EndsOfWork(s, c, blocks, number, warpgroup);
    if (splits == 1) {
      StoreOnly(s, c, p, work, ends, warpgroup);
    } else if (!whole) {
      StorePart(c, p, work, ends, warpgroup);
    } else if (split == 0) {
      Keep(s, c, p, work, ends, warpgroup);
    } else {
      StoreMerged(s, c, p, work, ends, warpgroup);
    }
    c.first += blocks;
  }
}

template <bool kPacked>
__device__ inline void InitBarriers(Shared& s) {
  BarrierInit(&s.query_full, 1);
  BarrierInit(&s.query_empty, kConsumers);
  BarrierInit(&s.denominators_full, kConsumers);
  for (int stage = 0; stage < kStages; ++stage) {
    for (int piece = 0; piece < kPieces; ++piece) {
      // Threads that widen, or warps that ask the copy engine.
      const int of_packed = piece + 1 < kPieces ? 32 * kProducerWarps : kProducerWarps;
      BarrierInit(&s.full[stage][piece], kPacked ? of_packed : 1);
      BarrierInit(&s.empty[stage][piece], piece + 1 < kPieces ? 4 : 8);  // warps
    }
    BarrierInit(&s.maxima[stage], 128);
    BarrierInit(&s.weights[stage], 128);
  }
  FenceBarrierInit();
}

// kPacked: from a cache in eight bits. `whole`: see WholeTiles.
template <bool kPacked>
__global__ void __launch_bounds__(kPacked ? kPackedThreads : kThreads, 1)
    DecodeKernel(const __grid_constant__ Maps maps, const __grid_constant__ MlaDecode p, int whole) {
  extern __shared__ uint8_t unaligned[];
  Shared& s = *reinterpret_cast<Shared*>((reinterpret_cast<uintptr_t>(unaligned) + 1023) / 1024 * 1024);
  if (threadIdx.x == 0) InitBarriers<kPacked>(s);
  __syncthreads();
  conclave::cuda::FollowKernelsBefore();
  if (threadIdx.x >= kConsumers) {
    // Of eight warps too: with 48 widening spills, and memory takes long beside all that streams by.
    RegistersDown<56>();
    if constexpr (kPacked) return ProducePacked(s, maps, p, whole);
    Producer(s, maps, p, whole, __shfl_sync(~0u, threadIdx.x / 32, 0) - kConsumers / 32).Run();
  } else {
    RegistersUp<kPacked ? 200 : 224>();
    Consume<kPacked>(s, p);
  }
}

// One block of threads per row, from `first` on, and head, four columns a thread: the splits of rows that have several,
// in ascending order.
__global__ void __launch_bounds__(kLatent / 4)
    MergeKernel(const __grid_constant__ MlaDecode p, int splits_max, int first) {
  conclave::cuda::FollowKernelsBefore();
  const int64_t row = static_cast<int64_t>(first) * p.heads + blockIdx.x;
  const int splits = (__ldg(p.lengths + row / p.heads) + kMlaSplitTokens - 1) / kMlaSplitTokens;
  if (splits <= 1) return;
  const float4* sums = static_cast<const float4*>(p.workspace) + row * splits_max * (kLatent / 4) + threadIdx.x;
  const float2* ends = reinterpret_cast<const float2*>(static_cast<const float*>(p.workspace) +
                                                       static_cast<int64_t>(p.rows) * p.heads * splits_max * kLatent) +
                       row * splits_max;
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
    const MergeFactors merge(maximum, end.x);
    sum = make_float4(merge(sum.x, next.x), merge(sum.y, next.y), merge(sum.z, next.z), merge(sum.w, next.w));
    denominator = merge(denominator, end.y);
    maximum = merge.maximum;
  }
  const float inverse = 1.0f / denominator;
  __nv_bfloat162* out =
      reinterpret_cast<__nv_bfloat162*>(static_cast<__nv_bfloat16*>(p.out) + row * kLatent) + 2 * threadIdx.x;
  out[0] = __floats2bfloat162_rn(sum.x * inverse, sum.y * inverse);
  out[1] = __floats2bfloat162_rn(sum.z * inverse, sum.w * inverse);
}

}  // namespace conclave::sm90::mla

#endif  // CONCLAVE_MOE_KERNELS_CUDA_SM90_BF16_MLA_DECODE_CUH_
