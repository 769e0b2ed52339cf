// Three floors: check the problem, configure the tile, launch.
#include "moe/kernels/cuda/sm90_fp8_linear.cuh"
#include "moe/kernels/cuda/sm90_fp8_thin.cuh"

#include <algorithm>
#include <string>

#include "moe/kernels/cuda/dense_linear.h"
#include "moe/kernels/cuda/launch.h"
#include "moe/kernels/cuda/tensor_map.h"

namespace conclave::cuda {
namespace {

using sm90::LinearArguments;

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
  if (!problem.x.data || !problem.x.scales || !problem.w || !problem.w_scales || !problem.out) {
    return invalid("a pointer is null");
  }
  if ((reinterpret_cast<uintptr_t>(problem.x.data) | reinterpret_cast<uintptr_t>(problem.w) |
       reinterpret_cast<uintptr_t>(problem.x.scales) | reinterpret_cast<uintptr_t>(problem.out)) % 16 != 0 ||
      problem.out_stride % 8 != 0) {
    return invalid("data, scales and out must be 16-byte aligned, out_stride a multiple of 8");
  }
  return absl::OkStatus();
}

template <int kTokens>
absl::Status Launch(const Fp8Linear& problem, LinearArguments arguments, int multiprocessors, bool thin,
                    cudaStream_t stream) {
  CUtensorMap weights, rows, scales;
  const int k = problem.x.cols, box_features = thin ? sm90::kThinFeatures : sm90::kHalfFeatures;
  auto status = MakeTensorMap(&weights, problem.w, CU_TENSOR_MAP_DATA_TYPE_UINT8, 1, problem.features, k, box_features,
                              sm90::kBlockK, CU_TENSOR_MAP_SWIZZLE_128B);
  if (!status.ok()) return status;
  status = MakeTensorMap(&rows, problem.x.data, CU_TENSOR_MAP_DATA_TYPE_UINT8, 1, problem.x.rows_capacity, k, kTokens,
                         sm90::kBlockK, CU_TENSOR_MAP_SWIZZLE_128B);
  if (!status.ok()) return status;
  status = MakeTensorMap(&scales, problem.x.scales, CU_TENSOR_MAP_DATA_TYPE_FLOAT32, 4, k / kScaleBlock,
                         problem.x.rows_capacity, 1, kTokens, CU_TENSOR_MAP_SWIZZLE_NONE);
  if (!status.ok()) return status;
  arguments.row_tiles = (problem.rows + kTokens - 1) / kTokens;
  const auto launch = [&](auto kernel, int tile_features, int threads) -> absl::Status {
    const cudaError_t raised =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, sm90::kSharedBytesMax);
    if (raised != cudaSuccess) return CudaError("cudaFuncSetAttribute", raised);
    arguments.feature_tiles = (problem.features + tile_features - 1) / tile_features;
    const int tiles = arguments.row_tiles * arguments.feature_tiles;
    LaunchOverlapped(kernel, dim3(std::min(tiles, multiprocessors)), threads, sm90::kSharedBytesMax, stream, weights,
                     rows, scales, arguments);
    return LaunchStatus("FP8 linear launch");
  };
  if (thin) return launch(sm90::ThinKernel<kTokens>, sm90::kThinFeatures, sm90::ThinTile<kTokens>::kThreads);
  if constexpr (kTokens == sm90::kWideTokens)
    return launch(sm90::LinearKernel<kTokens>, 2 * sm90::kHalfFeatures, sm90::kThreads);
  return absl::InternalError("FP8 linear: no such tile");
}

// A warp has one row's block of 128 features.
__global__ void __launch_bounds__(256) SwiGluQuantiseKernel(const float* gate_up, Fp8Rows out) {
  FollowKernelsBefore();
  const int block = blockIdx.y * 8 + threadIdx.x / 32, lane = threadIdx.x % 32;
  if (block >= out.cols / kScaleBlock) return;
  const int64_t row = blockIdx.x, gate = row * 2 * out.cols + block * kScaleBlock + 4 * lane;
  const float4 g = *reinterpret_cast<const float4*>(gate_up + gate),
               u = *reinterpret_cast<const float4*>(gate_up + gate + out.cols);
  const float products[4] = {sm90::SwiGlu(g.x, u.x), sm90::SwiGlu(g.y, u.y), sm90::SwiGlu(g.z, u.z),
                             sm90::SwiGlu(g.w, u.w)};
  float largest = fmaxf(fmaxf(fabsf(products[0]), fabsf(products[1])), fmaxf(fabsf(products[2]), fabsf(products[3])));
#pragma unroll
  for (int step = 16; step > 0; step /= 2) largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, step));
  const float scale = fmaxf(largest, 1e-10f) / 448.0f, inverse = 1.0f / scale;
  const uint32_t four = sm90::QuantisePair(products[0] * inverse, products[1] * inverse) |
                        sm90::QuantisePair(products[2] * inverse, products[3] * inverse) << 16;
  reinterpret_cast<uint32_t*>(static_cast<uint8_t*>(out.data) + row * out.cols + block * kScaleBlock)[lane] = four;
  if (lane == 0) out.scales[int64_t{block} * out.rows_capacity + row] = scale;
}

}  // namespace

absl::Status LaunchSwiGluQuantise(const float* gate_up, int rows, const Fp8Rows& out, void* stream) {
  LaunchOverlapped(SwiGluQuantiseKernel, dim3(rows, (out.cols / kScaleBlock + 7) / 8), 256, 0,
                   static_cast<cudaStream_t>(stream), gate_up, out);
  return LaunchStatus("SwiGLU and quantisation launch");
}

absl::Status LaunchFp8Linear(const Fp8Linear& problem, void* stream) {
  if (absl::Status status = Check(problem); !status.ok()) return status;
  const auto limits = Limits();
  if (!limits.ok()) return limits.status();
  if (!limits->hopper) return absl::FailedPreconditionError("FP8 linear: needs a Hopper GPU (sm_90)");
  LinearArguments arguments{};
  arguments.rows = problem.rows;
  arguments.k_blocks = problem.x.cols / kScaleBlock;
  arguments.scale_rows = (problem.features + kScaleBlock - 1) / kScaleBlock;
  arguments.weight_scales = problem.w_scales;
  arguments.to = {problem.out, problem.out_stride, problem.features, problem.bf16_out};
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  const int processors = limits->multiprocessors;
  if (problem.rows <= 8) return Launch<8>(problem, arguments, processors, true, cuda_stream);
  if (problem.rows <= 16) return Launch<16>(problem, arguments, processors, true, cuda_stream);
  if (problem.rows <= 32) return Launch<32>(problem, arguments, processors, true, cuda_stream);
  // Tiles of 256 features need the fewest bytes a product, but must keep the device busy.
  const int64_t tiles = int64_t{(problem.rows + 127) / 128} * ((problem.features + 255) / 256);
  return Launch<sm90::kWideTokens>(problem, arguments, processors, tiles < processors, cuda_stream);
}

}  // namespace conclave::cuda
