// Grouped products in plain loops, one thread an output: the oracle of the fast kernels, and what other devices run.
#include "moe/kernels/cuda/plain_grouped_ffn.h"

#include <cuda_bf16.h>
#include <cuda_fp8.h>

#include "moe/kernels/cuda/launch.h"

namespace conclave::cuda {
namespace {

constexpr int kThreads = 128;

// The expert whose segment holds `row`; -1 where none does.
template <typename Problem>
__device__ int ExpertOf(const Problem& p, int row) {
  for (int expert = 0; expert < p.w.experts; ++expert) {
    if (row >= p.row_begins[expert] && row < p.row_begins[expert] + p.row_counts[expert]) return expert;
  }
  return -1;
}

__device__ float Dot(const GroupedGemm& p, int row, int expert, int feature) {
  const int k_blocks = p.w.cols / kScaleBlock;
  const auto* x = static_cast<const __nv_fp8_e4m3*>(p.x.data) + static_cast<int64_t>(row) * p.w.cols;
  const auto* w =
      static_cast<const __nv_fp8_e4m3*>(p.w.data) + (static_cast<int64_t>(expert) * p.w.rows + feature) * p.w.cols;
  const float* w_scales = p.w.scales + (static_cast<int64_t>(expert) * (p.w.rows / 128) + feature / 128) * k_blocks;
  double sum = 0;
  for (int block = 0; block < k_blocks; ++block) {
    float partial = 0;
    for (int i = block * kScaleBlock; i < (block + 1) * kScaleBlock; ++i)
      partial += static_cast<float>(x[i]) * static_cast<float>(w[i]);
    sum += static_cast<double>(partial) * p.x.scales[static_cast<int64_t>(block) * p.x.rows_capacity + row] *
           w_scales[block];
  }
  return static_cast<float>(sum);
}

__device__ float Dot(const Bf16GroupedGemm& p, int row, int expert, int feature) {
  const auto* x = static_cast<const __nv_bfloat16*>(p.x.data) + static_cast<int64_t>(row) * p.w.cols;
  const auto* w =
      static_cast<const __nv_bfloat16*>(p.w.data) + (static_cast<int64_t>(expert) * p.w.rows + feature) * p.w.cols;
  double sum = 0;
  for (int i = 0; i < p.w.cols; ++i) sum += __bfloat162float(x[i]) * __bfloat162float(w[i]);
  return static_cast<float>(sum);
}

__device__ void Store(float* to, float value) { *to = value; }
__device__ void Store(__nv_bfloat16* to, float value) { *to = __float2bfloat16_rn(value); }

template <typename Problem, typename Out>
__global__ void GemmKernel(const __grid_constant__ Problem p, Out* out) {
  const int feature = blockIdx.x * kThreads + threadIdx.x, row = blockIdx.y;
  const int expert = ExpertOf(p, row);
  if (expert < 0 || feature >= p.w.rows) return;
  Store(out + static_cast<int64_t>(row) * p.w.rows + feature, Dot(p, row, expert, feature));
}

// silu(gate) · up of one row and one of the block's 128 features.
template <typename Problem>
__device__ float Activated(const Problem& p, int row, int expert) {
  const int feature = blockIdx.x * kThreads + threadIdx.x;
  const float gate = Dot(p, row, expert, feature), up = Dot(p, row, expert, p.w.rows / 2 + feature);
  return gate / (1.0f + expf(-gate)) * up;
}

__global__ void GateUpKernel(const __grid_constant__ Bf16GroupedGemm p, __nv_bfloat16* out) {
  const int row = blockIdx.y, expert = ExpertOf(p, row);
  if (expert < 0) return;
  const int64_t at = static_cast<int64_t>(row) * (p.w.rows / 2) + blockIdx.x * kThreads + threadIdx.x;
  out[at] = __float2bfloat16_rn(Activated(p, row, expert));
}

__global__ void GateUpKernel(const __grid_constant__ GroupedGemm p, const __grid_constant__ Fp8Rows out) {
  __shared__ float maxima[kThreads];
  const int row = blockIdx.y, expert = ExpertOf(p, row);
  if (expert < 0) return;
  const float value = Activated(p, row, expert);
  maxima[threadIdx.x] = fabsf(value);
  __syncthreads();
  float largest = 1e-10f;
  for (float maximum : maxima) largest = fmaxf(largest, maximum);
  const float scale = largest / 448.0f;
  const int64_t at = static_cast<int64_t>(row) * out.cols + blockIdx.x * kThreads + threadIdx.x;
  static_cast<__nv_fp8_e4m3*>(out.data)[at] = __nv_fp8_e4m3(value * (1.0f / scale));
  if (threadIdx.x == 0) out.scales[static_cast<int64_t>(blockIdx.x) * out.rows_capacity + row] = scale;
}

template <typename Problem, typename Out>
absl::Status LaunchGemm(const Problem& problem, Out* out, void* stream) {
  const dim3 grid((problem.w.rows + kThreads - 1) / kThreads, problem.x.rows_capacity);
  GemmKernel<<<grid, kThreads, 0, static_cast<cudaStream_t>(stream)>>>(problem, out);
  return LaunchStatus("plain grouped GEMM launch");
}

}  // namespace

absl::Status LaunchReferenceGemm(const GroupedGemm& problem, float* out, void* stream) {
  return LaunchGemm(problem, out, stream);
}
absl::Status LaunchBf16ReferenceGemm(const Bf16GroupedGemm& problem, float* out, void* stream) {
  return LaunchGemm(problem, out, stream);
}

absl::Status LaunchPlainGroupedGemm(const GroupedGemm& problem, void* out, void* stream) {
  WarnSlow("grouped FP8 products");
  return LaunchGemm(problem, static_cast<__nv_bfloat16*>(out), stream);
}
absl::Status LaunchPlainBf16GroupedGemm(const Bf16GroupedGemm& problem, void* out, void* stream) {
  WarnSlow("grouped bfloat16 products");
  return LaunchGemm(problem, static_cast<__nv_bfloat16*>(out), stream);
}
absl::Status LaunchPlainGroupedGateUp(const GroupedGemm& problem, const Fp8Rows& out, void* stream) {
  WarnSlow("grouped FP8 products");
  GateUpKernel<<<dim3(out.cols / kThreads, problem.x.rows_capacity), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
      problem, out);
  return LaunchStatus("plain gate+up launch");
}
absl::Status LaunchPlainBf16GroupedGateUp(const Bf16GroupedGemm& problem, void* out, void* stream) {
  WarnSlow("grouped bfloat16 products");
  GateUpKernel<<<dim3(problem.w.rows / 2 / kThreads, problem.x.rows_capacity), kThreads, 0,
                 static_cast<cudaStream_t>(stream)>>>(problem, static_cast<__nv_bfloat16*>(out));
  return LaunchStatus("plain gate+up launch");
}

}  // namespace conclave::cuda
