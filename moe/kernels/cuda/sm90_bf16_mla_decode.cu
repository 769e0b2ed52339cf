// Configures and launches sm90_bf16_mla_decode.cuh.
#include "moe/kernels/cuda/sm90_bf16_mla_decode.cuh"

#include <algorithm>

#include "moe/kernels/cuda/launch.h"
#include "moe/kernels/cuda/mla_decode_kernels.h"
#include "moe/kernels/cuda/tensor_map.h"

namespace conclave::cuda {

using namespace sm90::mla;

bool Sm90Bf16MlaTakes(const MlaDecode& problem) {
  return problem.dtype == MlaDtype::kBf16 && problem.latent == kLatent && problem.rope == kRope &&
         problem.page_tokens >= kWarpRows && problem.page_tokens <= kBlockTokens &&
         (problem.page_tokens & (problem.page_tokens - 1)) == 0;
}

namespace {

template <bool kPacked>
absl::Status Launch(const MlaDecode& problem, const Maps& maps, cudaStream_t stream) {
  static const cudaError_t raised =
      cudaFuncSetAttribute(DecodeKernel<kPacked>, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes);
  if (raised != cudaSuccess) return CudaError("cudaFuncSetAttribute", raised);
  const auto limits = Limits();
  if (!limits.ok()) return limits.status();
  const int tiles = (problem.heads + kHeads - 1) / kHeads;
  const int splits = (problem.tokens_max + kMlaSplitTokens - 1) / kMlaSplitTokens;
  const int whole = WholeTiles(problem, limits->multiprocessors);
  const int64_t work = whole + (int64_t{problem.rows} * tiles - whole) * splits;
  const auto blocks = static_cast<unsigned>(std::min<int64_t>(work, limits->multiprocessors));
  LaunchOverlapped(DecodeKernel<kPacked>, dim3(blocks), kPacked ? kPackedThreads : kThreads, kSharedBytes, stream, maps,
                   problem, whole);
  if (const int first = whole / tiles; first < problem.rows) {
    LaunchOverlapped(MergeKernel, dim3((problem.rows - first) * problem.heads), kLatent / 4, 0, stream, problem, splits,
                     first);
  }
  return LaunchStatus("MLA decode launch");
}

}  // namespace

absl::Status LaunchSm90Bf16Mla(const MlaDecode& problem, cudaStream_t stream) {
  constexpr int kWidth = kLatent + kRope;
  constexpr auto kType = CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
  Maps maps;
  const int64_t tokens = int64_t{problem.pages} * problem.page_tokens;
  auto status = MakeTensorMap(&maps.query, problem.query, kType, 2, int64_t{problem.rows} * problem.heads, kWidth,
                              kHeads, 64, CU_TENSOR_MAP_SWIZZLE_128B);
  if (!status.ok()) return status;
  if (problem.packed) {
    const TensorShape<2> keys = {{kRope, static_cast<cuuint64_t>(tokens)}, {kPackedBytes}, {64, kWarpRows}};
    status = MakeTensorMap(&maps.cache, static_cast<const uint8_t*>(problem.cache) + kKeysAt, kType, keys,
                           CU_TENSOR_MAP_SWIZZLE_128B);
    return status.ok() ? Launch<true>(problem, maps, stream) : status;
  }
  status = MakeTensorMap(&maps.cache, problem.cache, kType, 2, tokens, kWidth, problem.page_tokens, 64,
                         CU_TENSOR_MAP_SWIZZLE_128B);
  if (!status.ok()) return status;
  const TensorShape<3> panels = {
      {64, static_cast<cuuint64_t>(tokens), kLatent / 64}, {kWidth * 2, 128}, {64, kBlockTokens, kPiecePanels}};
  status = MakeTensorMap(&maps.pieces, problem.cache, kType, panels, CU_TENSOR_MAP_SWIZZLE_128B);
  return status.ok() ? Launch<false>(problem, maps, stream) : status;
}

}  // namespace conclave::cuda
