// Three floors: check the problem, configure the tile, launch.
#include "moe/kernels/cuda/sm90_head_products.cuh"

#include <algorithm>
#include <string>

#include "moe/kernels/cuda/launch.h"
#include "moe/kernels/cuda/tensor_map.h"

namespace conclave::cuda {
namespace {

absl::Status Check(const HeadProducts& p) {
  const auto invalid = [](const std::string& text) { return absl::InvalidArgumentError("head products: " + text); };
  if (p.rows < 1 || p.heads < 1) return invalid("rows and heads must be at least 1");
  if (p.features < 128 || p.features % 128 != 0) return invalid("features must be a multiple of 128");
  if (p.cols < 128 || p.cols % 128 != 0 || p.cols > 512) return invalid("cols must be 128, 256, 384 or 512");
  if (p.w_begin % 128 != 0 || p.w_step % 128 != 0) return invalid("w_begin and w_step must be multiples of 128");
  if (p.x_stride % 8 != 0 || p.x_batch % 8 != 0 || p.out_stride % 4 != 0 || p.out_batch % 4 != 0) {
    return invalid("strides of x must be multiples of 8, those of out multiples of 4");
  }
  if (!p.x || !p.w || !p.w_scales || !p.out) return invalid("a pointer is null");
  if ((reinterpret_cast<uintptr_t>(p.x) | reinterpret_cast<uintptr_t>(p.w)) % 16 != 0)
    return invalid("x and w must be 16-byte aligned");
  return absl::OkStatus();
}

template <int kTokens>
absl::Status Launch(const HeadProducts& p, int multiprocessors, cudaStream_t stream) {
  CUtensorMap x;
  const TensorShape<3> shape = {
      {static_cast<cuuint64_t>(p.cols), static_cast<cuuint64_t>(p.heads), static_cast<cuuint64_t>(p.rows)},
      {static_cast<cuuint64_t>(p.x_batch) * 2, static_cast<cuuint64_t>(p.x_stride) * 2},
      {64, 1, kTokens}};
  auto status = MakeTensorMap(&x, p.x, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, shape, CU_TENSOR_MAP_SWIZZLE_128B);
  if (!status.ok()) return status;
  const auto kernel = sm90::heads::HeadKernel<kTokens>;
  static const cudaError_t raised =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, sm90::kSharedBytesMax);
  if (raised != cudaSuccess) return CudaError("cudaFuncSetAttribute", raised);
  const int blocks = p.heads * (p.features / sm90::heads::kFeatures), tiles = (p.rows + kTokens - 1) / kTokens;
  // Few heads on many multiprocessors: several blocks of threads bring the same weights.
  const int apart = std::clamp(multiprocessors / blocks, 1, tiles);
  LaunchOverlapped(kernel, dim3(blocks, apart), sm90::heads::kThreads,
                   sm90::heads::Sizes<kTokens>::Bytes(p.cols / sm90::kBlockK), stream, x, p);
  return LaunchStatus("head products launch");
}

}  // namespace

absl::Status LaunchHeadProducts(const HeadProducts& p, void* stream) {
  if (absl::Status status = Check(p); !status.ok()) return status;
  const auto limits = Limits();
  if (!limits.ok()) return limits.status();
  if (!limits->hopper) return absl::FailedPreconditionError("head products: need a Hopper GPU (sm_90)");
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  if (p.rows <= 8) return Launch<8>(p, limits->multiprocessors, cuda_stream);
  if (p.rows <= 16) return Launch<16>(p, limits->multiprocessors, cuda_stream);
  if (p.rows <= 32) return Launch<32>(p, limits->multiprocessors, cuda_stream);
  if (p.rows <= 64) return Launch<64>(p, limits->multiprocessors, cuda_stream);
  return Launch<128>(p, limits->multiprocessors, cuda_stream);
}

}  // namespace conclave::cuda
