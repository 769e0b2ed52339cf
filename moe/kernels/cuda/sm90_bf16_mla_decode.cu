// Configures and launches sm90_bf16_mla_decode.cuh.
#include "moe/kernels/cuda/sm90_bf16_mla_decode.cuh"

#include "moe/kernels/cuda/launch.h"
#include "moe/kernels/cuda/mla_decode_kernels.h"
#include "moe/kernels/cuda/tensor_map.h"

namespace conclave::cuda {

using namespace sm90::mla;

bool Sm90Bf16MlaTakes(const MlaDecode& problem) {
  return problem.dtype == MlaDtype::kBf16 && problem.latent == kLatent && problem.rope == kRope && problem.page_tokens >= 8 &&
         problem.page_tokens <= kBlockTokens && (problem.page_tokens & (problem.page_tokens - 1)) == 0;
}

absl::Status LaunchSm90Bf16Mla(const MlaDecode& problem, cudaStream_t stream) {
  CUtensorMap query, cache;
  constexpr int kWidth = kLatent + kRope;
  auto status = MakeTensorMap(&query, problem.query, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, int64_t{problem.rows} * problem.heads,
                              kWidth, kHeads, 64, CU_TENSOR_MAP_SWIZZLE_128B);
  if (!status.ok()) return status;
  status = MakeTensorMap(&cache, problem.cache, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, int64_t{problem.pages} * problem.page_tokens,
                         kWidth, problem.page_tokens, 64, CU_TENSOR_MAP_SWIZZLE_128B);
  if (!status.ok()) return status;
  static const cudaError_t raised = cudaFuncSetAttribute(DecodeKernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes);
  if (raised != cudaSuccess) return CudaError("cudaFuncSetAttribute", raised);
  const int tiles = (problem.heads + kHeads - 1) / kHeads;
  const int splits = (problem.tokens_max + kMlaSplitTokens - 1) / kMlaSplitTokens;
  DecodeKernel<<<dim3(problem.rows * tiles, splits), kThreads, kSharedBytes, stream>>>(query, cache, problem);
  if (splits > 1) MergeKernel<<<problem.rows * problem.heads, kLatent / 4, 0, stream>>>(problem, splits);
  return LaunchStatus("MLA decode launch");
}

}  // namespace conclave::cuda
