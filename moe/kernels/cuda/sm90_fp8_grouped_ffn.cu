// Three floors: check the problem, configure the tile, launch.
#include "moe/kernels/cuda/sm90_fp8_grouped_ffn.cuh"

#include <cuda_runtime.h>

#include <string>

#include "moe/kernels/cuda/grouped_ffn.h"
#include "moe/kernels/cuda/launch.h"
#include "moe/kernels/cuda/plain_grouped_ffn.h"
#include "moe/kernels/cuda/sm90_fp8_ffn.cuh"
#include "moe/kernels/cuda/tensor_map.h"

namespace conclave::cuda {
namespace {

using sm90::Epilogue;
using sm90::KernelArguments;

absl::Status Check(const GroupedGemm& problem, int features_multiple) {
  const auto invalid = [](const std::string& text) { return absl::InvalidArgumentError("grouped GEMM: " + text); };
  if (problem.w.experts < 1) return invalid("w.experts must be at least 1");
  if (problem.w.rows < 1 || problem.w.rows % features_multiple != 0) {
    return invalid("w.rows = " + std::to_string(problem.w.rows) + " must be a multiple of " +
                   std::to_string(features_multiple));
  }
  if (problem.w.cols < kScaleBlock || problem.w.cols % kScaleBlock != 0) {
    return invalid("w.cols = " + std::to_string(problem.w.cols) + " must be a multiple of 128");
  }
  if (problem.x.cols != problem.w.cols) return invalid("x.cols and w.cols differ");
  if (problem.x.rows_capacity < 4 || problem.x.rows_capacity % 4 != 0)
    return invalid("x.rows_capacity must be a multiple of 4");
  if (!problem.x.data || !problem.x.scales || !problem.w.data || !problem.w.scales || !problem.row_begins ||
      !problem.row_counts) {
    return invalid("a pointer is null");
  }
  if ((reinterpret_cast<uintptr_t>(problem.x.data) | reinterpret_cast<uintptr_t>(problem.w.data) |
       reinterpret_cast<uintptr_t>(problem.x.scales)) % 16 != 0) {
    return invalid("data must be 16-byte aligned");
  }
  return absl::OkStatus();
}

template <int kTokens>
absl::Status MakeMaps(const GroupedGemm& problem, sm90::ProductMaps* maps) {
  const int k = problem.w.cols;
  absl::Status status = MakeTensorMap(&maps->weights, problem.w.data, CU_TENSOR_MAP_DATA_TYPE_UINT8, 1,
                                      static_cast<int64_t>(problem.w.experts) * problem.w.rows, k, sm90::kHalfFeatures,
                                      sm90::kBlockK, CU_TENSOR_MAP_SWIZZLE_128B);
  if (!status.ok()) return status;
  status = MakeTensorMap(&maps->rows, problem.x.data, CU_TENSOR_MAP_DATA_TYPE_UINT8, 1, problem.x.rows_capacity, k,
                         kTokens, sm90::kBlockK, CU_TENSOR_MAP_SWIZZLE_128B);
  if (!status.ok()) return status;
  return MakeTensorMap(&maps->scales, problem.x.scales, CU_TENSOR_MAP_DATA_TYPE_FLOAT32, 4, k / kScaleBlock,
                       problem.x.rows_capacity, 1, kTokens, CU_TENSOR_MAP_SWIZZLE_NONE);
}

// One block of threads on each multiprocessor.
template <auto kKernel, typename... Arguments>
absl::Status LaunchEverywhere(cudaStream_t stream, const Arguments&... arguments) {
  const auto limits = Limits();
  if (!limits.ok()) return limits.status();
  static const cudaError_t raised =
      cudaFuncSetAttribute(kKernel, cudaFuncAttributeMaxDynamicSharedMemorySize, sm90::kSharedBytesMax);
  if (raised != cudaSuccess) return CudaError("cudaFuncSetAttribute", raised);
  LaunchOverlapped(kKernel, dim3(limits->multiprocessors), sm90::kThreads, sm90::kSharedBytesMax, stream, arguments...);
  return LaunchStatus("grouped GEMM launch");
}

template <int kTokens, Epilogue kEpilogue>
absl::Status Launch(const GroupedGemm& problem, const KernelArguments& arguments, cudaStream_t stream) {
  sm90::ProductMaps maps;
  if (absl::Status status = MakeMaps<kTokens>(problem, &maps); !status.ok()) return status;
  return LaunchEverywhere<sm90::GroupedKernel<kTokens, kEpilogue>>(stream, maps.weights, maps.rows, maps.scales,
                                                                   arguments);
}

template <int kTokens>
absl::Status LaunchFfn(const GroupedGemm& gate_up, const GroupedGemm& down, const sm90::FfnArguments& arguments,
                       cudaStream_t stream) {
  sm90::FfnMaps maps;
  if (absl::Status status = MakeMaps<kTokens>(gate_up, &maps.gate_up); !status.ok()) return status;
  if (absl::Status status = MakeMaps<kTokens>(down, &maps.down); !status.ok()) return status;
  return LaunchEverywhere<sm90::FfnKernel<kTokens>>(stream, maps, arguments);
}

// The narrowest tile that takes an expert's rows at once, so that weights stream through each block once. Every width
// gives the same bits (sm90_fp8_mainloop.cuh), which is why a guess is enough here. Calls run<kTokens>().
template <typename Run>
absl::Status WithTile(int rows_per_expert, Run run) {
  if (rows_per_expert <= 8) return run.template operator()<8>();
  if (rows_per_expert <= 16) return run.template operator()<16>();
  if (rows_per_expert <= 32) return run.template operator()<32>();
  return run.template operator()<sm90::kWideTokens>();
}

KernelArguments Arguments(const GroupedGemm& problem, int tile_features) {
  KernelArguments arguments{};
  arguments.shape = {problem.row_begins, problem.row_counts, problem.w.experts, problem.w.rows / tile_features,
                     problem.w.cols / kScaleBlock};
  arguments.weight_scales = problem.w.scales;
  arguments.features = problem.w.rows;
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
  return WithTile(problem.rows_per_expert, [&]<int kTokens>() {
    return Launch<kTokens, Epilogue::kBf16>(problem, arguments, static_cast<cudaStream_t>(stream));
  });
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
  return WithTile(problem.rows_per_expert, [&]<int kTokens>() {
    return Launch<kTokens, Epilogue::kSwiGluQuantise>(problem, arguments, static_cast<cudaStream_t>(stream));
  });
}

absl::Status LaunchGroupedFfn(const GroupedFfn& problem, void* out, void* stream) {
  const GroupedGemm gate_up = {problem.x, problem.gate_up, problem.row_begins, problem.row_counts,
                               problem.rows_per_expert};
  const GroupedGemm down = {problem.activation, problem.down, problem.row_begins, problem.row_counts,
                            problem.rows_per_expert};
  const auto limits = Limits();
  if (!limits.ok()) return limits.status();
  if (!limits->hopper) {
    if (absl::Status status = LaunchGroupedGateUp(gate_up, problem.activation, stream); !status.ok()) return status;
    return LaunchGroupedGemm(down, out, stream);
  }
  for (const GroupedGemm& product : {gate_up, down}) {
    if (absl::Status status = Check(product, 256); !status.ok()) return status;
  }
  if (gate_up.w.rows != 2 * down.w.cols || gate_up.w.experts != down.w.experts ||
      gate_up.x.rows_capacity != down.x.rows_capacity || out == nullptr || problem.progress == nullptr) {
    return absl::InvalidArgumentError("grouped FFN: gate_up, down and activation must agree, out and progress be set");
  }
  sm90::FfnArguments arguments;
  arguments.gate_up = Arguments(gate_up, 256);
  arguments.gate_up.out = problem.activation.data;
  arguments.gate_up.out_scales = problem.activation.scales;
  arguments.gate_up.out_scale_stride = problem.activation.rows_capacity;
  arguments.down = Arguments(down, 256);
  arguments.down.out = out;
  arguments.progress = problem.progress;
  return WithTile(problem.rows_per_expert, [&]<int kTokens>() {
    return LaunchFfn<kTokens>(gate_up, down, arguments, static_cast<cudaStream_t>(stream));
  });
}

}  // namespace conclave::cuda
