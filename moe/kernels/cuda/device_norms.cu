// RMS norms, alone and behind the sum of a residual. Two forms with the same bits: a column a thread, and four where
// the shape allows, which keep the row in registers.
#include <initializer_list>

#include "moe/kernels/cuda/device_ops.cuh"
#include "moe/kernels/cuda/overlap.cuh"

namespace conclave::cuda {
namespace {

// One step's latency counts where rows are few.
constexpr int kThreads = 1024;
constexpr int kFourThreads = kThreads / 4;
constexpr int kFoursMax = 8;  // of a thread

__global__ void __launch_bounds__(kThreads) NormKernel(NormArgs args) {
  FollowKernelsBefore();
  const int64_t row = blockIdx.x;
  const float* x = args.x + (args.row_index == nullptr ? row : args.row_index[row]) * args.x_stride;
  const float factor = NormFactor(x, args.cols, args.eps);
  for (int64_t i = threadIdx.x; i < args.cols; i += blockDim.x) {
    StoreAs(args.out, args.out_dtype, row * args.out_stride + i, x[i] * factor * args.weight[i]);
  }
}

__device__ __forceinline__ bool StaysFinite(float value, bool rounded) {
  return isfinite(rounded ? __bfloat162float(__float2bfloat16_rn(value)) : value);
}

// The row's sum stays in shared memory for its norm.
__global__ void __launch_bounds__(kThreads) AddNormKernel(AddNormArgs args) {
  FollowKernelsBefore();
  extern __shared__ float sums[];  // [cols]
  __shared__ float scratch[32];
  const int64_t cols = args.add.cols, base = static_cast<int64_t>(blockIdx.x) * cols;
  float squares = 0;
  bool finite = true;
  for (int64_t i = threadIdx.x; i < cols; i += blockDim.x) {
    const float sum = args.add.acc[base + i] + args.add.y[base + i];
    args.add.acc[base + i] = sums[i] = sum;
    finite = finite && isfinite(sum);
    squares = fmaf(sum, sum, squares);
  }
  if (!finite) atomicMin(&args.add.fault_layer[blockIdx.x], args.add.layer);
  const float factor = 1.0f / sqrtf(BlockSum(squares, scratch) / static_cast<float>(cols) + args.eps);
  finite = true;
  for (int64_t i = threadIdx.x; i < cols; i += blockDim.x) {
    const float value = sums[i] * factor * args.weight[i];
    if (args.out != nullptr) args.out[base + i] = value;
    if (args.rounded != nullptr) static_cast<__nv_bfloat16*>(args.rounded)[base + i] = __float2bfloat16_rn(value);
    finite = finite && StaysFinite(value, args.rounded != nullptr);
  }
  if (!finite) atomicMin(&args.add.fault_layer[blockIdx.x], args.add.layer);
}

// A thread's columns: four neighbours of every 1024.
struct Fours {
  float4 x[kFoursMax];

  template <typename Each>
  __device__ __forceinline__ static void ForEach(int64_t cols, Each each) {
#pragma unroll
    for (int i = 0; i < kFoursMax; ++i) {
      const int four = i * kFourThreads + threadIdx.x;
      if (four < cols / 4) each(i, four);
    }
  }

  // 1 / sqrt(mean(x²) + eps), by the order of sums of kThreads threads of one column each: a thread stands for four.
  __device__ float NormFactor(int64_t cols, float eps) const {
    __shared__ float scratch[kThreads / 32];
    float squares[4] = {0, 0, 0, 0};
    ForEach(cols, [&](int i, int) {
      squares[0] = fmaf(x[i].x, x[i].x, squares[0]);
      squares[1] = fmaf(x[i].y, x[i].y, squares[1]);
      squares[2] = fmaf(x[i].z, x[i].z, squares[2]);
      squares[3] = fmaf(x[i].w, x[i].w, squares[3]);
    });
#pragma unroll
    for (int offset = 4; offset > 0; offset >>= 1) {
#pragma unroll
      for (float& square : squares) square += __shfl_xor_sync(0xffffffffu, square, offset);
    }
    if (threadIdx.x % 8 == 0) scratch[threadIdx.x / 8] = (squares[0] + squares[2]) + (squares[1] + squares[3]);
    __syncthreads();
    return 1.0f / sqrtf(WarpSum(scratch[threadIdx.x % 32]) / static_cast<float>(cols) + eps);
  }

  __device__ __forceinline__ float4 Scaled(int i, float factor, float4 weight) const {
    return make_float4(x[i].x * factor * weight.x, x[i].y * factor * weight.y, x[i].z * factor * weight.z,
                       x[i].w * factor * weight.w);
  }
};

__device__ __forceinline__ uint2 Rounded(float4 x) {
  const __nv_bfloat162 low = __floats2bfloat162_rn(x.x, x.y), high = __floats2bfloat162_rn(x.z, x.w);
  return make_uint2(*reinterpret_cast<const uint32_t*>(&low), *reinterpret_cast<const uint32_t*>(&high));
}

__global__ void __launch_bounds__(kFourThreads) NormFourKernel(NormArgs args) {
  FollowKernelsBefore();
  const int64_t row = blockIdx.x;
  const auto* x =
      reinterpret_cast<const float4*>(args.x + (args.row_index == nullptr ? row : args.row_index[row]) * args.x_stride);
  const auto* weight = reinterpret_cast<const float4*>(args.weight);
  Fours fours;
  Fours::ForEach(args.cols, [&](int i, int four) { fours.x[i] = x[four]; });
  const float factor = fours.NormFactor(args.cols, args.eps);
  const int64_t out = row * args.out_stride / 4;
  Fours::ForEach(args.cols, [&](int i, int four) {
    const float4 value = fours.Scaled(i, factor, weight[four]);
    if (args.out_dtype == DType::kBF16) {
      static_cast<uint2*>(args.out)[out + four] = Rounded(value);
    } else {
      static_cast<float4*>(args.out)[out + four] = value;
    }
  });
}

__global__ void __launch_bounds__(kFourThreads) AddNormFourKernel(AddNormArgs args) {
  FollowKernelsBefore();
  const int64_t cols = args.add.cols, base = blockIdx.x * (cols / 4);
  auto* acc = reinterpret_cast<float4*>(args.add.acc) + base;
  const auto* y = reinterpret_cast<const float4*>(args.add.y) + base;
  const auto* weight = reinterpret_cast<const float4*>(args.weight);
  Fours fours, added;
  Fours::ForEach(cols, [&](int i, int four) {
    fours.x[i] = acc[four];
    added.x[i] = y[four];
  });
  bool finite = true;
  Fours::ForEach(cols, [&](int i, int four) {
    float4& sum = fours.x[i];
    sum = make_float4(sum.x + added.x[i].x, sum.y + added.x[i].y, sum.z + added.x[i].z, sum.w + added.x[i].w);
    acc[four] = sum;
    finite = finite && isfinite(sum.x) && isfinite(sum.y) && isfinite(sum.z) && isfinite(sum.w);
  });
  if (!finite) atomicMin(&args.add.fault_layer[blockIdx.x], args.add.layer);
  const float factor = fours.NormFactor(cols, args.eps);
  finite = true;
  Fours::ForEach(cols, [&](int i, int four) {
    const float4 value = fours.Scaled(i, factor, weight[four]);
    if (args.out != nullptr) reinterpret_cast<float4*>(args.out)[base + four] = value;
    if (args.rounded != nullptr) static_cast<uint2*>(args.rounded)[base + four] = Rounded(value);
    const bool rounded = args.rounded != nullptr;
    finite = finite && StaysFinite(value.x, rounded) && StaysFinite(value.y, rounded) &&
             StaysFinite(value.z, rounded) && StaysFinite(value.w, rounded);
  });
  if (!finite) atomicMin(&args.add.fault_layer[blockIdx.x], args.add.layer);
}

bool InFours(int64_t cols, std::initializer_list<int64_t> strides, std::initializer_list<const void*> pointers) {
  bool fours = cols % 4 == 0 && cols <= 4 * kFoursMax * kFourThreads;
  for (const int64_t stride : strides) fours = fours && stride % 4 == 0;
  for (const void* pointer : pointers) fours = fours && reinterpret_cast<uintptr_t>(pointer) % 16 == 0;
  return fours;
}

}  // namespace

void RmsNorm(const NormArgs& args, cudaStream_t stream) {
  const dim3 rows(static_cast<unsigned>(args.rows));
  if (InFours(args.cols, {args.x_stride, args.out_stride}, {args.x, args.weight, args.out})) {
    LaunchOverlapped(NormFourKernel, rows, kFourThreads, 0, stream, args);
  } else {
    LaunchOverlapped(NormKernel, rows, kThreads, 0, stream, args);
  }
}

void AddAndNormalise(const AddNormArgs& args, cudaStream_t stream) {
  const dim3 rows(static_cast<unsigned>(args.add.rows));
  if (InFours(args.add.cols, {}, {args.add.acc, args.add.y, args.weight, args.out, args.rounded})) {
    LaunchOverlapped(AddNormFourKernel, rows, kFourThreads, 0, stream, args);
    return;
  }
  const int bytes = static_cast<int>(args.add.cols) * static_cast<int>(sizeof(float));
  if (bytes > 48 * 1024) cudaFuncSetAttribute(AddNormKernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  LaunchOverlapped(AddNormKernel, rows, kThreads, bytes, stream, args);
}

}  // namespace conclave::cuda
