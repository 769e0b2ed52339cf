// Three floors: check the problem, configure the tile, launch.
#include "moe/kernels/cuda/sm90_fp8_grouped_ffn.cuh"

#include <cuda_runtime.h>

#include <string>

#include "moe/kernels/cuda/grouped_ffn.h"
#include "moe/kernels/cuda/launch.h"
#include "moe/kernels/cuda/plain_grouped_ffn.h"
#include "moe/kernels/cuda/tensor_map.h"

namespace conclave::cuda {
namespace {

using sm90::Epilogue;
using sm90::KernelArguments;

absl::Status Check(const GroupedGemm& problem, int features_multiple) {
  const auto invalid = [](const std::string& text) { return absl::InvalidArgumentError("grouped GEMM: " + text); };
  if (problem.w.experts < 1) return invalid("w.experts must be at least 1");
  if (problem.w.rows < 1 || problem.w.rows % features_multiple != 0) {
    return invalid("w.rows = " + std::to_string(problem.w.rows) + " must be a multiple of " + std::to_string(features_multiple));
  }
  if (problem.w.cols < kScaleBlock || problem.w.cols % kScaleBlock != 0) {
    return invalid("w.cols = " + std::to_string(problem.w.cols) + " must be a multiple of 128");
  }
  if (problem.x.cols != problem.w.cols) return invalid("x.cols and w.cols differ");
  if (problem.x.rows_capacity < 4 || problem.x.rows_capacity % 4 != 0) return invalid("x.rows_capacity must be a multiple of 4");
  if (!problem.x.data || !problem.x.scales || !problem.w.data || !problem.w.scales || !problem.row_begins || !problem.row_counts) {
    return invalid("a pointer is null");
  }
  if ((reinterpret_cast<uintptr_t>(problem.x.data) | reinterpret_cast<uintptr_t>(problem.w.data) |
       reinterpret_cast<uintptr_t>(problem.x.scales)) % 16 != 0) {
    return invalid("data must be 16-byte aligned");
  }
  return absl::OkStatus();
}

template <int kTokens, Epilogue kEpilogue>
absl::Status Launch(const GroupedGemm& problem, KernelArguments arguments, cudaStream_t stream) {
  CUtensorMap weights, rows, scales;
  const int k = problem.w.cols;
  auto status = MakeTensorMap(&weights, problem.w.data, CU_TENSOR_MAP_DATA_TYPE_UINT8, 1,
                        static_cast<int64_t>(problem.w.experts) * problem.w.rows, k, sm90::kHalfFeatures, sm90::kBlockK,
                        CU_TENSOR_MAP_SWIZZLE_128B);
  if (!status.ok()) return status;
  status = MakeTensorMap(&rows, problem.x.data, CU_TENSOR_MAP_DATA_TYPE_UINT8, 1, problem.x.rows_capacity, k, kTokens, sm90::kBlockK,
                   CU_TENSOR_MAP_SWIZZLE_128B);
  if (!status.ok()) return status;
  status = MakeTensorMap(&scales, problem.x.scales, CU_TENSOR_MAP_DATA_TYPE_FLOAT32, 4, k / kScaleBlock, problem.x.rows_capacity, 1,
                   kTokens, CU_TENSOR_MAP_SWIZZLE_NONE);
  if (!status.ok()) return status;
  const auto limits = Limits();
  if (!limits.ok()) return limits.status();
  const auto kernel = sm90::GroupedKernel<kTokens, kEpilogue>;
  static const cudaError_t raised =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, sm90::kSharedBytesMax);
  if (raised != cudaSuccess) return CudaError("cudaFuncSetAttribute", raised);
  LaunchOverlapped(kernel, dim3(limits->multiprocessors), sm90::kThreads, sm90::kSharedBytesMax, stream, weights, rows, scales, arguments);
  return LaunchStatus("grouped GEMM launch");
}

// The narrowest tile that takes an expert's rows at once, so that weights stream through each block once. Every width
// gives the same bits (sm90_fp8_mainloop.cuh), which is why a guess is enough here.
template <Epilogue kEpilogue>
absl::Status Configure(const GroupedGemm& problem, const KernelArguments& arguments, void* stream) {
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  if (problem.rows_per_expert <= 8) return Launch<8, kEpilogue>(problem, arguments, cuda_stream);
  if (problem.rows_per_expert <= 16) return Launch<16, kEpilogue>(problem, arguments, cuda_stream);
  if (problem.rows_per_expert <= 32) return Launch<32, kEpilogue>(problem, arguments, cuda_stream);
  return Launch<sm90::kWideTokens, kEpilogue>(problem, arguments, cuda_stream);
}

KernelArguments Arguments(const GroupedGemm& problem, int tile_features) {
  KernelArguments arguments{};
  arguments.shape = {problem.row_begins, problem.row_counts, problem.w.experts, problem.w.rows / tile_features, problem.w.cols / kScaleBlock};
  arguments.weight_scales = problem.w.scales;
  arguments.features = problem.w.rows;
  arguments.early_weights = problem.follows_grouped;
  return arguments;
}

}  // namespace

absl::Status LaunchGroupedGemm(const GroupedGemm& problem, void* out, void* stream) {
  if (absl::Status status = Check(problem, 256); !status.ok()) return status;
  if (out == nullptr) return absl::InvalidArgumentError("grouped GEMM: out is null");
  const auto limits = Limits();
  if (!limits.ok()) return limits.status();
  if (!limits->hopper) return LaunchPlainGroupedGemm(problem, out, stream);
  KernelArguments arguments = Arguments(problem, 256);
  arguments.out = out;
  return Configure<Epilogue::kBf16>(problem, arguments, stream);
}

absl::Status LaunchGroupedGateUp(const GroupedGemm& problem, const Fp8Rows& out, void* stream) {
  if (absl::Status status = Check(problem, 256); !status.ok()) return status;
  if (out.cols * 2 != problem.w.rows || out.data == nullptr || out.scales == nullptr) {
    return absl::InvalidArgumentError("grouped gate+up: out.cols must be w.rows / 2, its pointers set");
  }
  const auto limits = Limits();
  if (!limits.ok()) return limits.status();
  if (!limits->hopper) return LaunchPlainGroupedGateUp(problem, out, stream);
  KernelArguments arguments = Arguments(problem, 256);
  arguments.out = out.data;
  arguments.out_scales = out.scales;
  arguments.out_scale_stride = out.rows_capacity;
  return Configure<Epilogue::kSwiGluQuantise>(problem, arguments, stream);
}

}  // namespace conclave::cuda
