// Three floors: check the problem, configure the tile, launch.
#include "moe/kernels/cuda/sm90_bf16_split_linear.cuh"

#include <algorithm>
#include <string>

#include "moe/kernels/cuda/launch.h"
#include "moe/kernels/cuda/tensor_map.h"

namespace conclave::cuda {
namespace {

absl::Status Check(const SplitLinear& p) {
  const auto invalid = [](const std::string& text) { return absl::InvalidArgumentError("split linear: " + text); };
  if (p.terms != 1 && p.terms != 2) return invalid("terms must be 1 or 2");
  if (p.swiglu && p.terms != 2) return invalid("swiglu needs two terms");
  if (p.rows < 1 || p.features < 1) return invalid("rows and features must be at least 1");
  if (p.cols < 128 || p.cols % 128 != 0) return invalid("cols must be a multiple of 128");
  if (p.x_stride < p.cols || p.x_stride % 8 != 0) return invalid("x_stride must be a multiple of 8 and hold cols");
  if (!p.x || !p.w || !p.out) return invalid("a pointer is null");
  if ((reinterpret_cast<uintptr_t>(p.x) | reinterpret_cast<uintptr_t>(p.w)) % 16 != 0)
    return invalid("x and w must be 16-byte aligned");
  return absl::OkStatus();
}

template <int kHalves, int kTerms, bool kSwiGlu = false>
absl::Status Launch(const SplitLinear& p, int multiprocessors, cudaStream_t stream) {
  using namespace sm90::split;
  constexpr auto kType = CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
  CUtensorMap weights, rows;
  auto status = MakeTensorMap(&weights, p.w, kType, 2, kSwiGlu ? 2 * p.features : p.features, p.cols,
                              sm90::kHalfFeatures, kStageK, CU_TENSOR_MAP_SWIZZLE_128B);
  if (!status.ok()) return status;
  const TensorShape<2> of_rows = {{static_cast<cuuint64_t>(p.cols), static_cast<cuuint64_t>(p.rows) * kTerms},
                                  {static_cast<cuuint64_t>(p.x_stride) * 2},
                                  {kStageK, kOperandRows}};
  status = MakeTensorMap(&rows, p.x, kType, of_rows, CU_TENSOR_MAP_SWIZZLE_128B);
  if (!status.ok()) return status;
  const auto kernel = SplitKernel<kHalves, kTerms, kSwiGlu>;
  static const cudaError_t raised =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, sm90::kSharedBytesMax);
  if (raised != cudaSuccess) return CudaError("cudaFuncSetAttribute", raised);
  LaunchOverlapped(kernel, dim3(std::min(SplitTiles(p, kSwiGlu ? 1 : kHalves), multiprocessors)), sm90::kThreads,
                   sm90::kSharedBytesMax, stream, weights, rows, p);
  return LaunchStatus("split linear launch");
}

}  // namespace

int SplitTiles(const SplitLinear& p, int halves) {
  const int rows = sm90::split::kOperandRows / p.terms, features = halves * sm90::kHalfFeatures;
  return (p.rows + rows - 1) / rows * ((p.features + features - 1) / features);
}

absl::Status LaunchSplitLinear(const SplitLinear& p, void* stream) {
  if (absl::Status status = Check(p); !status.ok()) return status;
  const auto limits = Limits();
  if (!limits.ok()) return limits.status();
  if (!limits->hopper) return absl::FailedPreconditionError("split linear: needs a Hopper GPU (sm_90)");
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  if (p.swiglu) return Launch<2, 2, true>(p, limits->multiprocessors, cuda_stream);
  // Sums of one term fill the registers with half of the features. Every tile gives the same bits.
  if (p.terms == 1) return Launch<1, 1>(p, limits->multiprocessors, cuda_stream);
  if (SplitTiles(p, 2) < limits->multiprocessors) return Launch<1, 2>(p, limits->multiprocessors, cuda_stream);
  return Launch<2, 2>(p, limits->multiprocessors, cuda_stream);
}

}  // namespace conclave::cuda
