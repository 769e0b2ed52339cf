// The kernels behind CudaAccelerator: each function queues one operation of ops.h or expert_ops.h on `stream`.
// Plain CUDA: every output is summed by one fixed set of threads in one fixed order, whatever the number of rows, and
// how a launch tiles rows never enters it. What failed to launch is found by cudaGetLastError.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "absl/status/status.h"
#include "moe/kernels/accelerator/attention_ops.h"
#include "moe/kernels/accelerator/expert_ops.h"
#include "moe/kernels/accelerator/ops.h"

namespace conclave::cuda {

void Embed(const EmbedArgs& args, cudaStream_t stream);
void RmsNorm(const NormArgs& args, cudaStream_t stream);
absl::Status Linear(const LinearArgs& args, cudaStream_t stream);
absl::Status Ffn(const FfnArgs& args, cudaStream_t stream);
int64_t DenseWorkspaceBytes(const DenseLimits& limits);
void FillCache(const FillCacheArgs& args, cudaStream_t stream);
void RotateQueries(const RotateArgs& args, cudaStream_t stream);
absl::Status Attend(const AttendArgs& args, cudaStream_t stream);
// Whether the current device attends in bfloat16 on tensor cores, in KV blocks of every size.
bool AttendsOnTensorCores(int latent, int rope);
int64_t AttendWorkspaceBytes(int64_t rows, int heads, int latent, DType dtype, int64_t tokens_max);
void AddToResidual(const AddArgs& args, cudaStream_t stream);
void DrawTokens(const DrawArgs& args, cudaStream_t stream);
void AddAndNormalise(const AddNormArgs& args, cudaStream_t stream);
void SelectExperts(const SelectArgs& args, cudaStream_t stream);
void GatherRows(const GatherRowsArgs& args, cudaStream_t stream);
void Combine(const CombineArgs& args, cudaStream_t stream);

// Any product, in float32.
void PlainLinear(const LinearArgs& args, cudaStream_t stream);
// Whether tc_linear.cu takes this product; decided by its weight and precision alone, never by the number of rows.
bool TakesTensorCores(const LinearArgs& args);
void TensorCoreLinear(const LinearArgs& args, cudaStream_t stream);

// Experts in f32 or bf16, any shape.
int64_t PlainExpertBytes(int64_t pairs, const ExpertSlots& slots);
void RunPlainExperts(const ExpertFfnArgs& args, cudaStream_t stream);

// What is left to combine of a call whose rows lie in `out`.
inline CombineArgs CombineOf(const ExpertFfnArgs& args) {
  CombineArgs combine = args.combine;
  combine.expert_rows = args.out;
  combine.row_dtype = args.row_dtype;
  return combine;
}

// out = silu(x[r, 0 .. cols)) ⊙ x[r, cols .. 2 cols).
struct SiluMulArgs {
  const float* x = nullptr;  // [rows, 2 * cols]
  float* out = nullptr;      // [rows, cols]
  int64_t rows = 0, cols = 0;
};
void SiluMul(const SiluMulArgs& args, cudaStream_t stream);

// out[index] = value, rounded to nearest even where out is bfloat16.
__device__ inline void StoreAs(void* out, DType dtype, int64_t index, float value) {
  if (dtype == DType::kBF16) {
    static_cast<__nv_bfloat16*>(out)[index] = __float2bfloat16_rn(value);
  } else {
    static_cast<float*>(out)[index] = value;
  }
}
__device__ inline float LoadFrom(const void* data, DType dtype, int64_t index) {
  return dtype == DType::kBF16 ? __bfloat162float(static_cast<const __nv_bfloat16*>(data)[index])
                               : static_cast<const float*>(data)[index];
}

// Threads' sums become every thread's: a fixed tree.
__device__ inline float WarpSum(float value) {
#pragma unroll
  for (int offset = 16; offset > 0; offset >>= 1) value += __shfl_xor_sync(0xffffffffu, value, offset);
  return value;
}

// The same over a block of up to 1024 threads, a multiple of 32; `scratch` is 32 floats of shared memory.
__device__ inline float BlockSum(float value, float* scratch) {
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
  value = WarpSum(value);
  __syncthreads();
  if (lane == 0) scratch[warp] = value;
  __syncthreads();
  return WarpSum(lane < warps ? scratch[lane] : 0.0f);
}

// 1 / sqrt(mean(x²) + eps), the same in every thread of the block.
__device__ inline float NormFactor(const float* x, int64_t cols, float eps) {
  __shared__ float scratch[32];
  float squares = 0;
  for (int64_t i = threadIdx.x; i < cols; i += blockDim.x) squares = fmaf(x[i], x[i], squares);
  return 1.0f / sqrtf(BlockSum(squares, scratch) / static_cast<float>(cols) + eps);
}

// One stored weight as float32, without its block's scale.
template <DType kType>
__device__ inline float LoadWeight(const void* data, int64_t index) {
  if constexpr (kType == DType::kF32) return static_cast<const float*>(data)[index];
  if constexpr (kType == DType::kBF16) return __bfloat162float(static_cast<const __nv_bfloat16*>(data)[index]);
  if constexpr (kType == DType::kF16) return __half2float(static_cast<const __half*>(data)[index]);
  if constexpr (kType == DType::kF8E4M3) return static_cast<float>(static_cast<const __nv_fp8_e4m3*>(data)[index]);
}

// Four neighbours at once. REQUIRES: index is a multiple of 4, and so is every row's length.
template <DType kType>
__device__ inline float4 LoadWeight4(const void* data, int64_t index) {
  if constexpr (kType == DType::kF32) return *reinterpret_cast<const float4*>(static_cast<const float*>(data) + index);
  if constexpr (kType == DType::kBF16) {
    const uint2 bits = *reinterpret_cast<const uint2*>(static_cast<const uint16_t*>(data) + index);
    return make_float4(__uint_as_float(bits.x << 16), __uint_as_float(bits.x & 0xffff0000u),
                       __uint_as_float(bits.y << 16), __uint_as_float(bits.y & 0xffff0000u));
  }
  if constexpr (kType == DType::kF16) {
    const auto* pairs = reinterpret_cast<const __half2*>(static_cast<const __half*>(data) + index);
    const float2 a = __half22float2(pairs[0]), b = __half22float2(pairs[1]);
    return make_float4(a.x, a.y, b.x, b.y);
  }
  if constexpr (kType == DType::kF8E4M3) {
    const auto four = *reinterpret_cast<const __nv_fp8x4_e4m3*>(static_cast<const uint8_t*>(data) + index);
    return static_cast<float4>(four);
  }
}

// Eight neighbours of float32 or bfloat16. REQUIRES: 16-byte aligned.
template <DType kType>
__device__ inline void LoadEight(const void* data, int64_t index, float (&out)[8]) {
  if constexpr (kType == DType::kBF16) {
    const uint4 bits = *reinterpret_cast<const uint4*>(static_cast<const uint16_t*>(data) + index);
    const uint32_t pairs[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      out[2 * i] = __uint_as_float(pairs[i] << 16);
      out[2 * i + 1] = __uint_as_float(pairs[i] & 0xffff0000u);
    }
  } else {
    static_assert(kType == DType::kF32);
    const auto* fours = reinterpret_cast<const float4*>(static_cast<const float*>(data) + index);
    const float4 low = fours[0], high = fours[1];
    const float eight[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
    for (int i = 0; i < 8; ++i) out[i] = eight[i];
  }
}

// The block scale of (matrix, row, col); 1 without scales.
__device__ inline float ScaleAt(const DeviceWeight& weight, int64_t matrix, int64_t row, int64_t col) {
  if (weight.scales == nullptr) return 1.0f;
  const int64_t scale_rows = (weight.rows + weight.block_rows - 1) / weight.block_rows;
  const int64_t scale_cols = (weight.cols + weight.block_cols - 1) / weight.block_cols;
  return weight.scales[(matrix * scale_rows + row / weight.block_rows) * scale_cols + col / weight.block_cols];
}

// Calls function.operator()<kType>() for the weight's dtype.
template <typename Function>
void ForWeightType(DType dtype, Function function) {
  switch (dtype) {
    case DType::kBF16: return function.template operator()<DType::kBF16>();
    case DType::kF16: return function.template operator()<DType::kF16>();
    case DType::kF8E4M3: return function.template operator()<DType::kF8E4M3>();
    default: return function.template operator()<DType::kF32>();
  }
}

}  // namespace conclave::cuda
