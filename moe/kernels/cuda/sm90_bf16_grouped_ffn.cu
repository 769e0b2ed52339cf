// Three floors: check the problem, configure the tile, launch.
#include "moe/kernels/cuda/sm90_bf16_grouped_ffn.cuh"

#include <string>

#include "moe/kernels/cuda/dense_linear.h"
#include "moe/kernels/cuda/grouped_ffn.h"
#include "moe/kernels/cuda/launch.h"
#include "moe/kernels/cuda/plain_grouped_ffn.h"
#include "moe/kernels/cuda/tensor_map.h"

namespace conclave::cuda {
namespace {

using sm90::KernelArguments;
using sm90::bf16::Output;

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
  if (!problem.x.data || !problem.w.data || !problem.row_begins || !problem.row_counts || !out)
    return invalid("a pointer is null");
  if ((reinterpret_cast<uintptr_t>(problem.x.data) | reinterpret_cast<uintptr_t>(problem.w.data)) % 16 != 0) {
    return invalid("data must be 16-byte aligned");
  }
  return absl::OkStatus();
}

template <int kTokens, int kHalf, Output kOutput>
absl::Status Launch(const Bf16GroupedGemm& problem, void* out, int multiprocessors, cudaStream_t stream) {
  CUtensorMap weights, rows;
  constexpr auto kType = CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
  auto status = MakeTensorMap(&weights, problem.w.data, kType, 2, int64_t{problem.w.experts} * problem.w.rows,
                              problem.w.cols, kHalf, sm90::bf16::kBlockK, CU_TENSOR_MAP_SWIZZLE_128B);
  if (!status.ok()) return status;
  status = MakeTensorMap(&rows, problem.x.data, kType, 2, problem.x.rows_capacity, problem.x.cols, kTokens,
                         sm90::bf16::kBlockK, CU_TENSOR_MAP_SWIZZLE_128B);
  if (!status.ok()) return status;
  const auto kernel = sm90::bf16::GroupedKernel<kTokens, kHalf, kOutput>;
  static const cudaError_t raised =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, sm90::kSharedBytesMax);
  if (raised != cudaSuccess) return CudaError("cudaFuncSetAttribute", raised);
  KernelArguments arguments{};
  arguments.shape = {problem.row_begins, problem.row_counts, problem.w.experts,
                     (problem.w.rows + 2 * kHalf - 1) / (2 * kHalf), problem.w.cols / sm90::bf16::kBlockK};
  arguments.features = problem.w.rows;
  arguments.out = out;
  arguments.early_weights = problem.follows_grouped;
  LaunchOverlapped(kernel, dim3(multiprocessors), sm90::bf16::kConsumersOf<kHalf> + 128, sm90::kSharedBytesMax, stream,
                   weights, rows, arguments);
  return LaunchStatus("bf16 grouped GEMM launch");
}

// The narrowest tile that takes an expert's rows at once; every width gives the same bits. Of few rows half as many
// features, so that even few experts' weights keep all multiprocessors reading.
template <Output kOutput>
absl::Status LaunchNarrowest(const Bf16GroupedGemm& problem, void* out, int multiprocessors, cudaStream_t stream) {
  constexpr int kWhole = sm90::kHalfFeatures, kSmall = kOutput == Output::kFloat ? kWhole : kWhole / 2;
  if (problem.rows_per_expert <= 8) return Launch<8, kSmall, kOutput>(problem, out, multiprocessors, stream);
  if (problem.rows_per_expert <= 16) return Launch<16, kSmall, kOutput>(problem, out, multiprocessors, stream);
  if (problem.rows_per_expert <= 32) return Launch<32, kWhole, kOutput>(problem, out, multiprocessors, stream);
  if (problem.rows_per_expert <= 64) return Launch<64, kWhole, kOutput>(problem, out, multiprocessors, stream);
  return Launch<128, kWhole, kOutput>(problem, out, multiprocessors, stream);
}

template <Output kOutput>
absl::Status Configure(const Bf16GroupedGemm& problem, void* out, void* stream) {
  if (absl::Status status = Check(problem, out); !status.ok()) return status;
  const auto limits = Limits();
  if (!limits.ok()) return limits.status();
  if (!limits->hopper) {
    return kOutput == Output::kSwiGlu ? LaunchPlainBf16GroupedGateUp(problem, out, stream)
                                      : LaunchPlainBf16GroupedGemm(problem, out, stream);
  }
  return LaunchNarrowest<kOutput>(problem, out, limits->multiprocessors, static_cast<cudaStream_t>(stream));
}

}  // namespace

absl::Status LaunchBf16GroupedGemm(const Bf16GroupedGemm& problem, void* out, void* stream) {
  return Configure<Output::kBf16>(problem, out, stream);
}
absl::Status LaunchBf16GroupedGateUp(const Bf16GroupedGemm& problem, void* out, void* stream) {
  return Configure<Output::kSwiGlu>(problem, out, stream);
}

absl::Status LaunchBf16Linear(const Bf16Linear& problem, void* stream) {
  const auto invalid = [](const std::string& text) { return absl::InvalidArgumentError("bf16 linear: " + text); };
  if (problem.features < 8 || problem.features % 8 != 0) {
    return invalid("features = " + std::to_string(problem.features) + " must be a multiple of 8");
  }
  if (problem.cols < 64 || problem.cols % 64 != 0) {
    return invalid("cols = " + std::to_string(problem.cols) + " must be a multiple of 64");
  }
  if (problem.rows < 1) return invalid("rows must be at least 1");
  if (!problem.x || !problem.w || !problem.out || !problem.row_range) return invalid("a pointer is null");
  const auto limits = Limits();
  if (!limits.ok()) return limits.status();
  if (!limits->hopper) return absl::FailedPreconditionError("bf16 linear: needs a Hopper GPU (sm_90)");
  Bf16GroupedGemm grouped;
  grouped.x = {problem.x, problem.rows, problem.cols};
  grouped.w = {problem.w, 1, problem.features, problem.cols};
  grouped.row_begins = problem.row_range;
  grouped.row_counts = problem.row_range + 1;
  grouped.rows_per_expert = problem.rows;
  return LaunchNarrowest<Output::kFloat>(grouped, problem.out, limits->multiprocessors,
                                         static_cast<cudaStream_t>(stream));
}

}  // namespace conclave::cuda
