// Three floors: check the problem, configure the tile, launch.
#include "moe/kernels/cuda/sm90_bf16_grouped_ffn.cuh"

#include <string>

#include "moe/kernels/cuda/grouped_ffn.h"
#include "moe/kernels/cuda/launch.h"
#include "moe/kernels/cuda/plain_grouped_ffn.h"
#include "moe/kernels/cuda/tensor_map.h"

namespace conclave::cuda {
namespace {

using sm90::KernelArguments;

absl::Status Check(const Bf16GroupedGemm& problem, const void* out) {
  const auto invalid = [](const std::string& text) { return absl::InvalidArgumentError("bf16 grouped GEMM: " + text); };
  if (problem.w.experts < 1) return invalid("w.experts must be at least 1");
  if (problem.w.rows < 256 || problem.w.rows % 256 != 0) {
    return invalid("w.rows = " + std::to_string(problem.w.rows) + " must be a multiple of 256");
  }
  if (problem.w.cols < 64 || problem.w.cols % 64 != 0) {
    return invalid("w.cols = " + std::to_string(problem.w.cols) + " must be a multiple of 64");
  }
  if (problem.x.cols != problem.w.cols) return invalid("x.cols and w.cols differ");
  if (problem.x.rows_capacity < 1) return invalid("x.rows_capacity must be at least 1");
  if (!problem.x.data || !problem.w.data || !problem.row_begins || !problem.row_counts || !out) return invalid("a pointer is null");
  if ((reinterpret_cast<uintptr_t>(problem.x.data) | reinterpret_cast<uintptr_t>(problem.w.data)) % 16 != 0) {
    return invalid("data must be 16-byte aligned");
  }
  return absl::OkStatus();
}

template <int kTokens, bool kGateUp>
absl::Status Launch(const Bf16GroupedGemm& problem, void* out, int multiprocessors, cudaStream_t stream) {
  CUtensorMap weights, rows;
  constexpr auto kType = CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
  auto status = MakeTensorMap(&weights, problem.w.data, kType, 2, int64_t{problem.w.experts} * problem.w.rows, problem.w.cols,
                              sm90::kHalfFeatures, sm90::bf16::kBlockK, CU_TENSOR_MAP_SWIZZLE_128B);
  if (!status.ok()) return status;
  status = MakeTensorMap(&rows, problem.x.data, kType, 2, problem.x.rows_capacity, problem.x.cols, kTokens, sm90::bf16::kBlockK,
                         CU_TENSOR_MAP_SWIZZLE_128B);
  if (!status.ok()) return status;
  const auto kernel = sm90::bf16::GroupedKernel<kTokens, kGateUp>;
  static const cudaError_t raised =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, sm90::kSharedBytesMax);
  if (raised != cudaSuccess) return CudaError("cudaFuncSetAttribute", raised);
  KernelArguments arguments{};
  arguments.shape = {problem.row_begins, problem.row_counts, problem.w.experts, problem.w.rows / 256,
                     problem.w.cols / sm90::bf16::kBlockK};
  arguments.features = problem.w.rows;
  arguments.out = out;
  kernel<<<multiprocessors, sm90::kThreads, sm90::kSharedBytesMax, stream>>>(weights, rows, arguments);
  return LaunchStatus("bf16 grouped GEMM launch");
}

// The narrowest tile that takes an expert's rows at once; every width gives the same bits.
template <bool kGateUp>
absl::Status Configure(const Bf16GroupedGemm& problem, void* out, void* stream) {
  if (absl::Status status = Check(problem, out); !status.ok()) return status;
  const auto limits = Limits();
  if (!limits.ok()) return limits.status();
  if (!limits->hopper) {
    return kGateUp ? LaunchPlainBf16GroupedGateUp(problem, out, stream) : LaunchPlainBf16GroupedGemm(problem, out, stream);
  }
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  if (problem.rows_per_expert <= 8) return Launch<8, kGateUp>(problem, out, limits->multiprocessors, cuda_stream);
  if (problem.rows_per_expert <= 16) return Launch<16, kGateUp>(problem, out, limits->multiprocessors, cuda_stream);
  if (problem.rows_per_expert <= 32) return Launch<32, kGateUp>(problem, out, limits->multiprocessors, cuda_stream);
  if (problem.rows_per_expert <= 64) return Launch<64, kGateUp>(problem, out, limits->multiprocessors, cuda_stream);
  return Launch<128, kGateUp>(problem, out, limits->multiprocessors, cuda_stream);
}

}  // namespace

absl::Status LaunchBf16GroupedGemm(const Bf16GroupedGemm& problem, void* out, void* stream) {
  return Configure<false>(problem, out, stream);
}
absl::Status LaunchBf16GroupedGateUp(const Bf16GroupedGemm& problem, void* out, void* stream) {
  return Configure<true>(problem, out, stream);
}

}  // namespace conclave::cuda
