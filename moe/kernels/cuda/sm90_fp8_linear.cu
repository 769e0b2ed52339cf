// Three floors: check the problem, cut K and configure the tile, launch.
#include "moe/kernels/cuda/sm90_fp8_linear.cuh"

#include <algorithm>
#include <string>

#include "moe/kernels/cuda/dense_linear.h"
#include "moe/kernels/cuda/launch.h"
#include "moe/kernels/cuda/tensor_map.h"

namespace conclave::cuda {
namespace {

using sm90::LinearArguments;

constexpr int kTileFeatures = 2 * sm90::kHalfFeatures;
// Up to so many rows splits run apart.
constexpr int kApartRowsMax = 256;
// Multiprocessors that splits are made for, on every device alike: bits follow from them.
constexpr int kSplitTarget = 132;
constexpr int kSplitBlocksMin = 8;

absl::Status Check(const Fp8Linear& problem) {
  const auto invalid = [](const std::string& text) { return absl::InvalidArgumentError("FP8 linear: " + text); };
  if (problem.features < 8 || problem.features % 8 != 0) {
    return invalid("features = " + std::to_string(problem.features) + " must be a multiple of 8");
  }
  if (problem.x.cols < kScaleBlock || problem.x.cols % kScaleBlock != 0) {
    return invalid("x.cols = " + std::to_string(problem.x.cols) + " must be a multiple of 128");
  }
  if (problem.rows < 1 || problem.rows > problem.x.rows_capacity || problem.x.rows_capacity % 4 != 0) {
    return invalid("rows must be 1 to x.rows_capacity, that a multiple of 4");
  }
  if (!problem.x.data || !problem.x.scales || !problem.w || !problem.w_scales || !problem.out || !problem.workspace) {
    return invalid("a pointer is null");
  }
  if ((reinterpret_cast<uintptr_t>(problem.x.data) | reinterpret_cast<uintptr_t>(problem.w) |
       reinterpret_cast<uintptr_t>(problem.x.scales) | reinterpret_cast<uintptr_t>(problem.out) |
       reinterpret_cast<uintptr_t>(problem.workspace)) % 16 != 0 || problem.out_stride % 4 != 0) {
    return invalid("data, scales, out and workspace must be 16-byte aligned, out_stride a multiple of 4");
  }
  return absl::OkStatus();
}

// A function of the matrix alone.
void CutK(LinearArguments& arguments) {
  const int wanted = std::min(arguments.k_blocks / kSplitBlocksMin, kSplitTarget / arguments.feature_tiles);
  arguments.split_blocks = (arguments.k_blocks + std::max(wanted, 1) - 1) / std::max(wanted, 1);
  arguments.splits = (arguments.k_blocks + arguments.split_blocks - 1) / arguments.split_blocks;
}

template <int kTokens>
absl::Status Launch(const Fp8Linear& problem, LinearArguments arguments, cudaStream_t stream) {
  CUtensorMap weights, rows, scales;
  const int k = problem.x.cols;
  auto status = MakeTensorMap(&weights, problem.w, CU_TENSOR_MAP_DATA_TYPE_UINT8, 1, problem.features, k,
                              sm90::kHalfFeatures, sm90::kBlockK, CU_TENSOR_MAP_SWIZZLE_128B);
  if (!status.ok()) return status;
  status = MakeTensorMap(&rows, problem.x.data, CU_TENSOR_MAP_DATA_TYPE_UINT8, 1, problem.x.rows_capacity, k, kTokens,
                         sm90::kBlockK, CU_TENSOR_MAP_SWIZZLE_128B);
  if (!status.ok()) return status;
  status = MakeTensorMap(&scales, problem.x.scales, CU_TENSOR_MAP_DATA_TYPE_FLOAT32, 4, k / kScaleBlock,
                         problem.x.rows_capacity, 1, kTokens, CU_TENSOR_MAP_SWIZZLE_NONE);
  if (!status.ok()) return status;
  const auto limits = Limits();
  if (!limits.ok()) return limits.status();
  if (!limits->hopper) return absl::FailedPreconditionError("FP8 linear: needs a Hopper GPU (sm_90)");
  const auto kernel = sm90::LinearKernel<kTokens>;
  static const cudaError_t raised =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, sm90::kSharedBytesMax);
  if (raised != cudaSuccess) return CudaError("cudaFuncSetAttribute", raised);
  arguments.row_tiles = (problem.rows + kTokens - 1) / kTokens;
  arguments.apart = arguments.splits > 1 && problem.rows <= kApartRowsMax;
  const int units = arguments.row_tiles * arguments.feature_tiles * (arguments.apart ? arguments.splits : 1);
  kernel<<<std::min(units, limits->multiprocessors), sm90::kThreads, sm90::kSharedBytesMax, stream>>>(weights, rows, scales,
                                                                                                     arguments);
  return LaunchStatus("FP8 linear launch");
}

}  // namespace

absl::Status LaunchFp8Linear(const Fp8Linear& problem, void* stream) {
  if (absl::Status status = Check(problem); !status.ok()) return status;
  LinearArguments arguments{};
  arguments.rows = problem.rows;
  arguments.feature_tiles = (problem.features + kTileFeatures - 1) / kTileFeatures;
  arguments.k_blocks = problem.x.cols / kScaleBlock;
  CutK(arguments);
  arguments.scale_rows = (problem.features + kScaleBlock - 1) / kScaleBlock;
  arguments.weight_scales = problem.w_scales;
  arguments.to = {problem.out, problem.out_stride, problem.features};
  arguments.counters = static_cast<int32_t*>(problem.workspace);
  arguments.partials =
      reinterpret_cast<float4*>(static_cast<std::byte*>(problem.workspace) + kLinearCounterBytes);
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  if (problem.rows <= 8) return Launch<8>(problem, arguments, cuda_stream);
  if (problem.rows <= 16) return Launch<16>(problem, arguments, cuda_stream);
  if (problem.rows <= 32) return Launch<32>(problem, arguments, cuda_stream);
  return Launch<sm90::kWideTokens>(problem, arguments, cuda_stream);
}

}  // namespace conclave::cuda
