// Absorbed MLA over a paged latent cache: a warp owns one row and head. Positions are walked in chunks of
// kAttentionChunkTokens from zero, and chunks merge in ascending order by the running-maximum formula (Milakov and
// Gimelshein 2018), so that what stands beside a row never enters its sums.
#include "moe/kernels/cuda/device_ops.cuh"

namespace conclave::cuda {
namespace {

constexpr int kHeads = 8;  // of a block, which share the latents that they read
constexpr int kChunk = kAttentionChunkTokens;
static_assert(kChunk == 64);

template <typename Cache>
__device__ float ToFloat(Cache value) {
  if constexpr (sizeof(Cache) == 2) return __bfloat162float(value);
  else return value;
}

// Lane l holds the elements l, l + 32, … of the query and of the sum.
template <typename Cache, int kElements>
__global__ void __launch_bounds__(kHeads * 32) AttendKernel(AttendArgs args) {
  const int lane = threadIdx.x & 31, head = blockIdx.y * kHeads + (threadIdx.x >> 5);
  if (head >= args.heads) return;
  const int64_t row = blockIdx.x;
  const int width = args.latent + args.rope;
  const float* query = args.query + (row * args.heads + head) * width;
  const int32_t* blocks = args.blocks + args.first_block[row];
  const auto* cache = static_cast<const Cache*>(args.cache);
  const int tokens = args.positions[row] + 1;
  float q[kElements], sum[kElements];
#pragma unroll
  for (int e = 0; e < kElements; ++e) {
    q[e] = lane + 32 * e < width ? query[lane + 32 * e] : 0.0f;
    sum[e] = 0.0f;
  }
  float maximum = -INFINITY, total = 0.0f;
  const auto latent = [&](int token) {
    return cache + (static_cast<int64_t>(blocks[token / args.block_tokens]) * args.block_tokens +
                    token % args.block_tokens) * width;
  };
  for (int begin = 0; begin < tokens; begin += kChunk) {
    const int count = min(kChunk, tokens - begin);
    float low = -INFINITY, high = -INFINITY;  // scores of tokens begin + lane and begin + lane + 32
#pragma unroll 4
    for (int t = 0; t < count; ++t) {
      const Cache* key = latent(begin + t);
      float score = 0.0f;
#pragma unroll
      for (int e = 0; e < kElements; ++e) {
        if (lane + 32 * e < width) score = fmaf(q[e], ToFloat(key[lane + 32 * e]), score);
      }
      score = WarpSum(score) * args.scale;
      if (lane == (t & 31)) (t < 32 ? low : high) = score;
    }
    float largest = fmaxf(low, high);
#pragma unroll
    for (int offset = 16; offset > 0; offset >>= 1) {
      largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, offset));
    }
    const float next = fmaxf(maximum, largest);
    const float shrink = expf(maximum - next);  // zero for the first chunk
    low = lane < count ? expf(low - next) : 0.0f;
    high = lane + 32 < count ? expf(high - next) : 0.0f;
    total = fmaf(total, shrink, WarpSum(low + high));
    maximum = next;
#pragma unroll
    for (int e = 0; e < kElements; ++e) sum[e] *= shrink;
#pragma unroll 4
    for (int t = 0; t < count; ++t) {
      const float weight = __shfl_sync(0xffffffffu, t < 32 ? low : high, t & 31);
      const Cache* value = latent(begin + t);
#pragma unroll
      for (int e = 0; e < kElements; ++e) {
        if (lane + 32 * e < args.latent) sum[e] = fmaf(weight, ToFloat(value[lane + 32 * e]), sum[e]);
      }
    }
  }
  float* out = args.out + (row * args.heads + head) * args.latent;
#pragma unroll
  for (int e = 0; e < kElements; ++e) {
    if (lane + 32 * e < args.latent) out[lane + 32 * e] = sum[e] / total;
  }
}

template <typename Cache>
void Launch(const AttendArgs& args, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(args.rows), static_cast<unsigned>((args.heads + kHeads - 1) / kHeads));
  const int width = args.latent + args.rope;
  if (width <= 2 * 32) return AttendKernel<Cache, 2><<<grid, kHeads * 32, 0, stream>>>(args);
  if (width <= 6 * 32) return AttendKernel<Cache, 6><<<grid, kHeads * 32, 0, stream>>>(args);
  if (width <= 10 * 32) return AttendKernel<Cache, 10><<<grid, kHeads * 32, 0, stream>>>(args);
  if (width <= 18 * 32) return AttendKernel<Cache, 18><<<grid, kHeads * 32, 0, stream>>>(args);
  AttendKernel<Cache, 36><<<grid, kHeads * 32, 0, stream>>>(args);
}

}  // namespace

void Attend(const AttendArgs& args, cudaStream_t stream) {
  if (args.cache_dtype == DType::kBF16) return Launch<__nv_bfloat16>(args, stream);
  Launch<float>(args, stream);
}

}  // namespace conclave::cuda
