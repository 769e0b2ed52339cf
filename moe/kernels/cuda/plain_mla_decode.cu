// MLA decode in plain loops, for every shape, dtype and device: one block of threads per row and head, online softmax
// over blocks of 64 tokens in ascending order. It is the oracle of the fast kernels, and slow.
#include <cuda_bf16.h>

#include "moe/kernels/cuda/launch.h"
#include "moe/kernels/cuda/mla_decode_kernels.h"

namespace conclave::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kBlockTokens = 64;
constexpr int kLatentMax = 1024;

__device__ float ToFloat(float value) { return value; }
__device__ float ToFloat(__nv_bfloat16 value) { return __bfloat162float(value); }
__device__ void Store(float* to, float value) { *to = value; }
__device__ void Store(__nv_bfloat16* to, float value) { *to = __float2bfloat16_rn(value); }

// What the softmax weights are rounded to before they multiply latents: the dtype of the products.
template <typename T>
__device__ float Rounded(float value) {
  T rounded;
  Store(&rounded, value);
  return ToFloat(rounded);
}

// scores[t] = scale · (query · key of token begin + t); a warp takes every fourth token.
template <typename T>
__device__ void Score(const MlaDecode& p, const int32_t* table, const float* query, int begin, int count,
                      float* scores) {
  const int width = p.latent + p.rope;
  for (int t = threadIdx.x / 32; t < count; t += kThreads / 32) {
    const int token = begin + t;
    const int64_t slot = int64_t{table[token / p.page_tokens]} * p.page_tokens + token % p.page_tokens;
    const T* key = static_cast<const T*>(p.cache) + slot * width;
    float sum = 0;
    for (int i = threadIdx.x % 32; i < width; i += 32) sum += query[i] * ToFloat(key[i]);
    for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
    if (threadIdx.x % 32 == 0) scores[t] = sum * p.scale;
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads) PlainMlaKernel(const __grid_constant__ MlaDecode p) {
  extern __shared__ float query[];  // [latent + rope]
  __shared__ float scores[kBlockTokens];
  const int row = blockIdx.x / p.heads, head = blockIdx.x % p.heads;
  const int width = p.latent + p.rope;
  const int length = p.lengths[row];
  const int32_t* table = p.page_tables + int64_t{p.table_of_row ? p.table_of_row[row] : row} * p.table_stride;
  const T* of_head = static_cast<const T*>(p.query) + (int64_t{row} * p.heads + head) * width;
  for (int i = threadIdx.x; i < width; i += kThreads) query[i] = ToFloat(of_head[i]);

  float sums[kLatentMax / kThreads] = {};
  float maximum = -INFINITY, denominator = 0;
  for (int begin = 0; begin < length; begin += kBlockTokens) {
    const int count = min(kBlockTokens, length - begin);
    __syncthreads();
    Score<T>(p, table, query, begin, count, scores);
    __syncthreads();
    float next = maximum;
    for (int t = 0; t < count; ++t) next = fmaxf(next, scores[t]);
    const float shrink = expf(maximum - next);
    maximum = next;
    denominator *= shrink;
    for (float& sum : sums) sum *= shrink;
    for (int t = 0; t < count; ++t) {
      const float weight = Rounded<T>(expf(scores[t] - maximum));
      denominator += weight;
      const int token = begin + t;
      const int64_t slot = int64_t{table[token / p.page_tokens]} * p.page_tokens + token % p.page_tokens;
      const T* latent = static_cast<const T*>(p.cache) + slot * width;
#pragma unroll
      for (int j = 0; j < kLatentMax / kThreads; ++j) {
        const int i = j * kThreads + threadIdx.x;
        if (i < p.latent) sums[j] += weight * ToFloat(latent[i]);
      }
    }
  }
  T* out = static_cast<T*>(p.out) + (int64_t{row} * p.heads + head) * p.latent;
#pragma unroll
  for (int j = 0; j < kLatentMax / kThreads; ++j) {
    const int i = j * kThreads + threadIdx.x;
    if (i < p.latent) Store(out + i, length > 0 ? sums[j] / denominator : 0.0f);
  }
}

}  // namespace

absl::Status LaunchPlainMla(const MlaDecode& problem, cudaStream_t stream) {
  const int64_t blocks = int64_t{problem.rows} * problem.heads;
  const int bytes = (problem.latent + problem.rope) * 4;
  if (problem.dtype == MlaDtype::kF32) {
    PlainMlaKernel<float><<<blocks, kThreads, bytes, stream>>>(problem);
  } else {
    PlainMlaKernel<__nv_bfloat16><<<blocks, kThreads, bytes, stream>>>(problem);
  }
  return LaunchStatus("plain MLA decode launch");
}

}  // namespace conclave::cuda
