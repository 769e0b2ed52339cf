// Which kernels a dense product and a dense feed-forward run on, and the workspace that they share: decided by weights
// and precision alone, never by the number of rows.
#include <algorithm>

#include "moe/kernels/cuda/dense_linear.h"
#include "moe/kernels/cuda/device_ops.cuh"
#include "moe/kernels/cuda/quantise_row.cuh"

namespace conclave::cuda {
namespace {

constexpr int kThreads = 256;

int64_t Rounded(int64_t bytes) { return (bytes + 1023) / 1024 * 1024; }
int64_t Capacity(int64_t rows) { return (rows + 3) / 4 * 4; }

// A workspace is the sums of split products, the range of the rows, then operands as they are needed.
constexpr int64_t kRangeOffset = kLinearWorkspaceBytes;
constexpr int64_t kOperandsOffset = kRangeOffset + 1024;

int32_t* RowRange(void* workspace) {
  return reinterpret_cast<int32_t*>(static_cast<std::byte*>(workspace) + kRangeOffset);
}

int64_t Fp8RowsBytes(int64_t rows, int64_t cols) {
  return Rounded(Capacity(rows) * cols) + Rounded(Capacity(rows) * (cols / kScaleBlock) * int64_t{sizeof(float)});
}

Fp8Rows Fp8RowsAt(void* workspace, int64_t offset, int64_t rows, int64_t cols) {
  std::byte* const base = static_cast<std::byte*>(workspace) + offset;
  Fp8Rows made;
  made.data = base;
  made.scales = reinterpret_cast<float*>(base + Rounded(Capacity(rows) * cols));
  made.rows_capacity = static_cast<int>(Capacity(rows));
  made.cols = static_cast<int>(cols);
  return made;
}

// A warp quantises 128 values of one row.
__global__ void __launch_bounds__(kThreads) QuantiseKernel(const float* x, int64_t stride, Fp8Rows out, int32_t* range) {
  const int block = blockIdx.y * (kThreads / 32) + threadIdx.x / 32;
  const int64_t row = blockIdx.x;
  if (row == 0 && blockIdx.y == 0 && threadIdx.x == 0) {
    range[0] = 0;
    range[1] = static_cast<int32_t>(gridDim.x);
  }
  if (block >= out.cols / kScaleBlock) return;
  const int64_t col = int64_t{block} * kScaleBlock + threadIdx.x % 32 * 4;
  QuantiseBlock(*reinterpret_cast<const float4*>(x + row * stride + col), out, row, block);
}

__global__ void __launch_bounds__(kThreads) RoundRowsKernel(const float* x, int64_t stride, int cols, uint2* out,
                                                            int32_t* range) {
  const int64_t row = blockIdx.x;
  if (row == 0 && blockIdx.y == 0 && threadIdx.x == 0) {
    range[0] = 0;
    range[1] = static_cast<int32_t>(gridDim.x);
  }
  const int four = blockIdx.y * kThreads + threadIdx.x;
  if (four >= cols / 4) return;
  const float4 value = *reinterpret_cast<const float4*>(x + row * stride + 4 * four);
  const __nv_bfloat162 low = __floats2bfloat162_rn(value.x, value.y), high = __floats2bfloat162_rn(value.z, value.w);
  out[row * (cols / 4) + four] =
      make_uint2(*reinterpret_cast<const uint32_t*>(&low), *reinterpret_cast<const uint32_t*>(&high));
}

bool Fp8Weight(const DeviceWeight& w) {
  return w.dtype == DType::kF8E4M3 && w.scales != nullptr && w.block_rows == kScaleBlock && w.block_cols == kScaleBlock &&
         w.cols % kScaleBlock == 0 && w.rows % 8 == 0;
}

// One matrix, whole, with activations in float32.
bool Dense(const LinearArgs& args) {
  return args.workspace != nullptr && args.batch == 1 && args.w.matrices == 1 && !args.transposed && args.row_begin == 0 &&
         args.features == args.w.rows && args.bias == nullptr && args.x_dtype == DType::kF32 &&
         args.out_dtype == DType::kF32 && args.x_stride % 4 == 0;
}

bool TakesFp8(const LinearArgs& args) {
  return args.precision == LinearPrecision::kFp8 && Dense(args) && Fp8Weight(args.w) && args.out_stride % 4 == 0 &&
         reinterpret_cast<uintptr_t>(args.out) % 16 == 0;
}

bool TakesBf16(const LinearArgs& args) {
  return args.precision >= LinearPrecision::kBf16 && Dense(args) && args.w.dtype == DType::kBF16 &&
         args.w.cols % 64 == 0 && args.features % 8 == 0 && args.out_stride == args.features;
}

void Quantise(const float* x, int64_t stride, int64_t rows, const Fp8Rows& out, void* workspace, cudaStream_t stream) {
  const unsigned blocks = static_cast<unsigned>((out.cols / kScaleBlock + kThreads / 32 - 1) / (kThreads / 32));
  QuantiseKernel<<<dim3(static_cast<unsigned>(rows), blocks), kThreads, 0, stream>>>(x, stride, out, RowRange(workspace));
}

Fp8Linear Product(const Fp8Rows& x, const DeviceWeight& w, int64_t rows, void* workspace) {
  Fp8Linear linear;
  linear.x = x;
  linear.w = w.data;
  linear.w_scales = w.scales;
  linear.features = static_cast<int>(w.rows);
  linear.rows = static_cast<int>(rows);
  linear.workspace = workspace;
  return linear;
}

absl::Status RunFp8(const LinearArgs& args, cudaStream_t stream) {
  const Fp8Rows x = Fp8RowsAt(args.workspace, kOperandsOffset, args.rows, args.w.cols);
  Quantise(static_cast<const float*>(args.x), args.x_stride, args.rows, x, args.workspace, stream);
  Fp8Linear linear = Product(x, args.w, args.rows, args.workspace);
  linear.out = static_cast<float*>(args.out);
  linear.out_stride = args.out_stride;
  return LaunchFp8Linear(linear, stream);
}

absl::Status RunBf16(const LinearArgs& args, cudaStream_t stream) {
  void* const rounded = static_cast<std::byte*>(args.workspace) + kOperandsOffset;
  const int cols = static_cast<int>(args.w.cols);
  RoundRowsKernel<<<dim3(static_cast<unsigned>(args.rows), static_cast<unsigned>((cols / 4 + kThreads - 1) / kThreads)),
                    kThreads, 0, stream>>>(static_cast<const float*>(args.x), args.x_stride, cols,
                                           static_cast<uint2*>(rounded), RowRange(args.workspace));
  Bf16Linear linear;
  linear.x = rounded;
  linear.w = args.w.data;
  linear.features = static_cast<int>(args.features);
  linear.cols = cols;
  linear.rows = static_cast<int>(args.rows);
  linear.row_range = RowRange(args.workspace);
  linear.out = static_cast<float*>(args.out);
  return LaunchBf16Linear(linear, stream);
}

// Whether the grouped kernels take a feed-forward, as one expert.
bool TakesFp8(const FfnArgs& args) {
  return args.precision == LinearPrecision::kFp8 && Fp8Weight(args.gate_up) && Fp8Weight(args.down) &&
         args.gate_up.rows % kScaleBlock == 0;
}

absl::Status RunFp8(const FfnArgs& args, cudaStream_t stream) {
  const int64_t hidden = args.gate_up.cols, intermediate = args.down.cols;
  GroupedGemm problem;
  problem.x = Fp8RowsAt(args.workspace, kOperandsOffset, args.rows, hidden);
  Quantise(args.x, hidden, args.rows, problem.x, args.workspace, stream);
  problem.w.data = args.gate_up.data;
  problem.w.scales = args.gate_up.scales;
  problem.w.experts = 1;
  problem.w.rows = static_cast<int>(2 * intermediate);
  problem.w.cols = static_cast<int>(hidden);
  problem.row_begins = RowRange(args.workspace);
  problem.row_counts = RowRange(args.workspace) + 1;
  problem.rows_per_expert = static_cast<int>(args.rows);
  const Fp8Rows activation =
      Fp8RowsAt(args.workspace, kOperandsOffset + Fp8RowsBytes(args.rows, hidden), args.rows, intermediate);
  if (absl::Status status = LaunchGroupedGateUp(problem, activation, stream); !status.ok()) return status;
  Fp8Linear down = Product(activation, args.down, args.rows, args.workspace);
  down.out = args.out;
  down.out_stride = hidden;
  return LaunchFp8Linear(down, stream);
}

// Product by product, in float32 between them.
absl::Status RunFloat(const FfnArgs& args, cudaStream_t stream) {
  const int64_t hidden = args.gate_up.cols, intermediate = args.down.cols;
  float* const gate_up = reinterpret_cast<float*>(static_cast<std::byte*>(args.workspace) + kOperandsOffset);
  float* const activation = gate_up + args.rows * 2 * intermediate;
  LinearArgs linear;
  linear.precision = args.precision;
  linear.rows = args.rows;
  linear.x = args.x;
  linear.x_stride = hidden;
  linear.w = args.gate_up;
  linear.batch = 2;
  linear.features = linear.out_batch = intermediate;
  linear.out = gate_up;
  linear.out_stride = 2 * intermediate;
  if (absl::Status status = Linear(linear, stream); !status.ok()) return status;
  SiluMul({gate_up, activation, args.rows, intermediate}, stream);
  linear = LinearArgs();
  linear.precision = args.precision;
  linear.rows = args.rows;
  linear.x = activation;
  linear.x_stride = intermediate;
  linear.w = args.down;
  linear.features = linear.out_stride = hidden;
  linear.out = args.out;
  return Linear(linear, stream);
}

}  // namespace

absl::Status Linear(const LinearArgs& args, cudaStream_t stream) {
  if (TakesFp8(args)) return RunFp8(args, stream);
  if (TakesBf16(args)) return RunBf16(args, stream);
  if (TakesTensorCores(args)) {
    TensorCoreLinear(args, stream);
  } else {
    PlainLinear(args, stream);
  }
  return absl::OkStatus();
}

absl::Status Ffn(const FfnArgs& args, cudaStream_t stream) {
  return TakesFp8(args) ? RunFp8(args, stream) : RunFloat(args, stream);
}

int64_t DenseWorkspaceBytes(const DenseLimits& limits) {
  int64_t bytes = limits.rows * 3 * limits.intermediate * int64_t{sizeof(float)};
  if (limits.precision == LinearPrecision::kFp8) {
    if (limits.weight_dtype == DType::kF8E4M3) bytes = 0;
    bytes = std::max({bytes, Fp8RowsBytes(limits.rows, limits.cols), Rounded(limits.rows * limits.hidden * 2),
                      Fp8RowsBytes(limits.rows, limits.hidden) + Fp8RowsBytes(limits.rows, limits.intermediate)});
  }
  return kOperandsOffset + bytes;
}

}  // namespace conclave::cuda
