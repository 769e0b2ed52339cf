// Which kernels a dense product and a dense feed-forward run on, and the workspace that they share: decided by weights
// and precision alone, never by the number of rows.
#include <algorithm>

#include "moe/kernels/cuda/dense_linear.h"
#include "moe/kernels/cuda/device_ops.cuh"
#include "moe/kernels/cuda/head_products.h"
#include "moe/kernels/cuda/hopper_code.h"
#include "moe/kernels/cuda/overlap.cuh"
#include "moe/kernels/cuda/quantise_row.cuh"
#include "moe/kernels/cuda/tc_linear.cuh"

namespace conclave::cuda {
namespace {

constexpr int kThreads = 256;
// Up to so many rows gate+up may leave its sums in memory.
constexpr int64_t kApartRowsMax = 128;
// From so many rows and tiles on wgmma is faster than tc_linear.cu's kernels.
constexpr int64_t kSplitRowsMin = 33;
constexpr int kSplitTilesMin = 64;

int64_t Rounded(int64_t bytes) { return (bytes + 1023) / 1024 * 1024; }
int64_t Capacity(int64_t rows) { return (rows + 3) / 4 * 4; }

// A workspace is the range of the rows, then operands as they are needed.
constexpr int64_t kOperandsOffset = 1024;

int32_t* RowRange(void* workspace) { return static_cast<int32_t*>(workspace); }

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

template <DType kType>
__global__ void __launch_bounds__(kQuantiseThreads)
    QuantiseKernel(const void* x, int64_t stride, Fp8Rows out, int32_t* range) {
  FollowKernelsBefore();
  const int64_t row = blockIdx.x;
  if (row == 0 && blockIdx.y == 0 && threadIdx.x == 0) {
    range[0] = 0;
    range[1] = static_cast<int32_t>(gridDim.x);
  }
  StoreQuantised(
      QuantiseRow(out.cols, [&](int col, float(&eight)[8]) { LoadEight<kType>(x, row * stride + col, eight); }), out,
      row);
}

__global__ void __launch_bounds__(kThreads) RoundRowsKernel(const float* x, int64_t stride, int cols, uint2* out,
                                                            int32_t* range) {
  FollowKernelsBefore();
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

// Row r becomes the rows 2 r and 2 r + 1 of `out`: itself in bfloat16, and what that lost.
__global__ void __launch_bounds__(kThreads) SplitRowsKernel(const float* x, int64_t stride, int cols, uint2* out) {
  FollowKernelsBefore();
  const int64_t row = blockIdx.x;
  const int four = blockIdx.y * kThreads + threadIdx.x, fours = cols / 4;
  if (four >= fours) return;
  const float4 v = *reinterpret_cast<const float4*>(x + row * stride + 4 * four);
  const uint32_t low = tc::HighPair(v.x, v.y), high = tc::HighPair(v.z, v.w);
  out[2 * row * fours + four] = make_uint2(low, high);
  out[(2 * row + 1) * fours + four] = make_uint2(tc::LowPair(v.x, v.y, low), tc::LowPair(v.z, v.w, high));
}

bool Fp8Weight(const DeviceWeight& w) {
  return w.dtype == DType::kF8E4M3 && w.scales != nullptr && w.block_rows == kScaleBlock &&
         w.block_cols == kScaleBlock && w.cols % kScaleBlock == 0 && w.rows % 8 == 0;
}

// One matrix, whole.
bool Dense(const LinearArgs& args) {
  return args.workspace != nullptr && args.batch == 1 && args.w.matrices == 1 && !args.transposed &&
         args.row_begin == 0 && args.features == args.w.rows && args.bias == nullptr && args.x_stride % 4 == 0;
}

bool TakesFp8(const LinearArgs& args) {
  const int x_multiple = args.x_dtype == DType::kBF16 ? 8 : 4;  // 16 bytes
  return args.precision == LinearPrecision::kFp8 && Dense(args) && Fp8Weight(args.w) &&
         args.x_stride % x_multiple == 0 && args.out_stride % 8 == 0 &&
         (reinterpret_cast<uintptr_t>(args.x) | reinterpret_cast<uintptr_t>(args.out)) % 16 == 0;
}

bool TakesBf16(const LinearArgs& args) {
  return args.precision >= LinearPrecision::kBf16 && Dense(args) && args.x_dtype == DType::kF32 &&
         args.out_dtype == DType::kF32 && args.w.dtype == DType::kBF16 && args.w.cols % 64 == 0 &&
         args.features % 8 == 0 && args.out_stride == args.features;
}

SplitLinear SplitProduct(const LinearArgs& args) {
  SplitLinear linear;
  linear.terms = args.x_dtype == DType::kF32 ? 2 : 1;
  linear.x = linear.terms == 2 ? static_cast<std::byte*>(args.workspace) + kOperandsOffset : args.x;
  linear.x_stride = linear.terms == 2 ? args.w.cols : args.x_stride;
  linear.w = args.w.data;
  linear.features = static_cast<int>(args.features);
  linear.cols = static_cast<int>(args.w.cols);
  linear.rows = static_cast<int>(args.rows);
  linear.out = args.out;
  linear.bf16_out = args.out_dtype == DType::kBF16;
  linear.out_stride = args.out_stride;
  return linear;
}

// Many rows over bfloat16 weights. tc_linear.cu, which takes the rest, gives the same bits, so that rows may choose.
bool TakesSplit(const LinearArgs& args) {
  if (args.rows < kSplitRowsMin || args.w.dtype != DType::kBF16 || !TakesTensorCores(args) || !Dense(args))
    return false;
  const bool two_terms = args.x_dtype == DType::kF32 && args.precision == LinearPrecision::kSplit;
  const bool one_term =
      args.x_dtype == DType::kBF16 && args.x_stride % 8 == 0 && reinterpret_cast<uintptr_t>(args.x) % 16 == 0;
  return (two_terms || one_term) && SplitTiles(SplitProduct(args), 1) >= kSplitTilesMin && RunsHopperCode();
}

// A small matrix for every head.
bool TakesHeads(const LinearArgs& args) {
  return args.precision >= LinearPrecision::kBf16 && args.batch > 1 && !args.transposed && args.bias == nullptr &&
         args.x_dtype == DType::kBF16 && args.out_dtype == DType::kBF16 && Fp8Weight(args.w) && args.w.cols <= 512 &&
         args.w.rows % kScaleBlock == 0 && args.features % kScaleBlock == 0 && args.row_begin % kScaleBlock == 0 &&
         args.row_step % kScaleBlock == 0 && args.x_stride % 8 == 0 && args.x_batch % 8 == 0 &&
         args.out_stride % 4 == 0 && args.out_batch % 4 == 0 && reinterpret_cast<uintptr_t>(args.x) % 16 == 0;
}

void Quantise(const void* x, DType dtype, int64_t stride, int64_t rows, const Fp8Rows& out, void* workspace,
              cudaStream_t stream) {
  LaunchOverlapped(dtype == DType::kBF16 ? QuantiseKernel<DType::kBF16> : QuantiseKernel<DType::kF32>,
                   dim3(static_cast<unsigned>(rows), QuantiseBlocks(out.cols)), kQuantiseThreads, 0, stream, x, stride,
                   out, RowRange(workspace));
}

Fp8Linear Product(const Fp8Rows& x, const DeviceWeight& w, int64_t rows) {
  Fp8Linear linear;
  linear.x = x;
  linear.w = w.data;
  linear.w_scales = w.scales;
  linear.features = static_cast<int>(w.rows);
  linear.rows = static_cast<int>(rows);
  return linear;
}

absl::Status RunFp8(const LinearArgs& args, cudaStream_t stream) {
  const Fp8Rows x = Fp8RowsAt(args.workspace, kOperandsOffset, args.rows, args.w.cols);
  Quantise(args.x, args.x_dtype, args.x_stride, args.rows, x, args.workspace, stream);
  Fp8Linear linear = Product(x, args.w, args.rows);
  linear.out = args.out;
  linear.bf16_out = args.out_dtype == DType::kBF16;
  linear.out_stride = args.out_stride;
  return LaunchFp8Linear(linear, stream);
}

absl::Status RunBf16(const LinearArgs& args, cudaStream_t stream) {
  void* const rounded = static_cast<std::byte*>(args.workspace) + kOperandsOffset;
  const int cols = static_cast<int>(args.w.cols);
  LaunchOverlapped(RoundRowsKernel,
                   dim3(static_cast<unsigned>(args.rows), static_cast<unsigned>((cols / 4 + kThreads - 1) / kThreads)),
                   kThreads, 0, stream, static_cast<const float*>(args.x), args.x_stride, cols,
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

// Fills in the operand of a product of two terms.
void SplitRows(const void* x, int64_t stride, const SplitLinear& linear, cudaStream_t stream) {
  LaunchOverlapped(
      SplitRowsKernel,
      dim3(static_cast<unsigned>(linear.rows), static_cast<unsigned>((linear.cols / 4 + kThreads - 1) / kThreads)),
      kThreads, 0, stream, static_cast<const float*>(x), stride, linear.cols,
      static_cast<uint2*>(const_cast<void*>(linear.x)));
}

absl::Status RunSplit(const LinearArgs& args, cudaStream_t stream) {
  const SplitLinear linear = SplitProduct(args);
  if (linear.terms == 2) SplitRows(args.x, args.x_stride, linear, stream);
  return LaunchSplitLinear(linear, stream);
}

absl::Status RunHeads(const LinearArgs& args, cudaStream_t stream) {
  HeadProducts heads;
  heads.x = args.x;
  heads.x_stride = args.x_stride;
  heads.x_batch = args.x_batch;
  heads.w = args.w.data;
  heads.w_scales = args.w.scales;
  heads.w_begin = args.row_begin;
  heads.w_step = args.w.matrices > 1 ? args.w.rows : args.row_step;
  heads.out = args.out;
  heads.out_stride = args.out_stride;
  heads.out_batch = args.out_batch;
  heads.rows = static_cast<int>(args.rows);
  heads.heads = static_cast<int>(args.batch);
  heads.features = static_cast<int>(args.features);
  heads.cols = static_cast<int>(args.w.cols);
  return LaunchHeadProducts(heads, stream);
}

// Whether the grouped kernels take a feed-forward, as one expert.
bool TakesFp8(const FfnArgs& args) {
  return args.precision == LinearPrecision::kFp8 && Fp8Weight(args.gate_up) && Fp8Weight(args.down) &&
         args.gate_up.rows % kScaleBlock == 0;
}

// The tiles of gate+up that leave multiprocessors idle: then two kernels with smaller tiles are faster. Same bits.
bool ApartIsFaster(int64_t rows, int64_t intermediate) {
  return rows <= 32 || (rows <= kApartRowsMax && intermediate / kScaleBlock <= 64);
}

// activation = quantise(silu(gate · x) ⊙ up · x).
absl::Status GateUp(const FfnArgs& args, const Fp8Rows& x, const Fp8Rows& activation, float* sums,
                    cudaStream_t stream) {
  const int64_t hidden = args.gate_up.cols, intermediate = args.down.cols;
  if (ApartIsFaster(args.rows, intermediate)) {
    DeviceWeight both = args.gate_up;
    both.rows *= 2;
    both.matrices = 1;
    Fp8Linear linear = Product(x, both, args.rows);
    linear.out = sums;
    linear.out_stride = 2 * intermediate;
    if (absl::Status status = LaunchFp8Linear(linear, stream); !status.ok()) return status;
    return LaunchSwiGluQuantise(sums, static_cast<int>(args.rows), activation, stream);
  }
  GroupedGemm problem;
  problem.x = x;
  problem.w.data = args.gate_up.data;
  problem.w.scales = args.gate_up.scales;
  problem.w.experts = 1;
  problem.w.rows = static_cast<int>(2 * intermediate);
  problem.w.cols = static_cast<int>(hidden);
  problem.row_begins = RowRange(args.workspace);
  problem.row_counts = RowRange(args.workspace) + 1;
  problem.rows_per_expert = static_cast<int>(args.rows);
  return LaunchGroupedGateUp(problem, activation, stream);
}

absl::Status RunFp8(const FfnArgs& args, cudaStream_t stream) {
  const int64_t hidden = args.gate_up.cols, intermediate = args.down.cols;
  const int64_t of_activation = kOperandsOffset + Fp8RowsBytes(args.rows, hidden);
  const int64_t of_sums = of_activation + Fp8RowsBytes(args.rows, intermediate);
  const Fp8Rows x = Fp8RowsAt(args.workspace, kOperandsOffset, args.rows, hidden);
  const Fp8Rows activation = Fp8RowsAt(args.workspace, of_activation, args.rows, intermediate);
  Quantise(args.x, args.x_dtype, hidden, args.rows, x, args.workspace, stream);
  auto* const sums = reinterpret_cast<float*>(static_cast<std::byte*>(args.workspace) + of_sums);
  if (absl::Status status = GateUp(args, x, activation, sums, stream); !status.ok()) return status;
  Fp8Linear down = Product(activation, args.down, args.rows);
  down.out = args.out;
  down.out_stride = hidden;
  return LaunchFp8Linear(down, stream);
}

// What RunFloat keeps between products: gate, up and activation.
int64_t FloatsBytes(int64_t rows, int64_t intermediate) {
  return Rounded(rows * 3 * intermediate * int64_t{sizeof(float)});
}

// Whether its products may run on wgmma, for which rows are taken apart behind those.
bool SplitsFfn(LinearPrecision precision, DType weights) {
  return precision == LinearPrecision::kSplit && weights == DType::kBF16;
}

// Bytes of rows rounded to bfloat16, behind kOperandsOffset of a workspace.
int64_t RoundedBytes(int64_t rows, int64_t cols) { return Rounded(rows * cols * 2); }
// The same of a row's two bfloat16 numbers a value.
int64_t SplitBytes(int64_t rows, int64_t cols) { return Rounded(rows * cols * 4); }

// A feed-forward of many rows as two products by wgmma, whose first leaves the second's operand behind its own.
struct SplitFfn {
  SplitLinear gate_up, down;

  explicit SplitFfn(const FfnArgs& args) {
    const int hidden = static_cast<int>(args.gate_up.cols), intermediate = static_cast<int>(args.down.cols);
    std::byte* const operands = static_cast<std::byte*>(args.workspace) + kOperandsOffset;
    gate_up.x = operands;
    gate_up.w = args.gate_up.data;
    gate_up.rows = down.rows = static_cast<int>(args.rows);
    gate_up.cols = hidden;
    gate_up.features = intermediate;
    gate_up.x_stride = hidden;
    gate_up.out = operands + SplitBytes(args.rows, hidden);
    gate_up.out_stride = intermediate;
    gate_up.swiglu = true;
    down.x = gate_up.out;
    down.w = args.down.data;
    down.cols = intermediate;
    down.features = hidden;
    down.x_stride = intermediate;
    down.out = args.out;
    down.out_stride = hidden;
  }
};

// RunFloat, which takes the rest, gives the same bits.
bool TakesSplit(const FfnArgs& args) {
  const auto plain_bf16 = [&](const DeviceWeight& w) {
    return SplitsFfn(args.precision, w.dtype) && w.scales == nullptr && w.cols % tc::kBlockK == 0;
  };
  if (args.rows < kSplitRowsMin || args.x_dtype != DType::kF32 || !plain_bf16(args.gate_up) || !plain_bf16(args.down))
    return false;
  const SplitFfn ffn(args);
  return SplitTiles(ffn.gate_up, 1) >= kSplitTilesMin && SplitTiles(ffn.down, 1) >= kSplitTilesMin && RunsHopperCode();
}

absl::Status RunSplit(const FfnArgs& args, cudaStream_t stream) {
  const SplitFfn ffn(args);
  SplitRows(args.x, args.gate_up.cols, ffn.gate_up, stream);
  if (absl::Status status = LaunchSplitLinear(ffn.gate_up, stream); !status.ok()) return status;
  return LaunchSplitLinear(ffn.down, stream);
}

// Product by product, in float32 between them.
absl::Status RunFloat(const FfnArgs& args, cudaStream_t stream) {
  const int64_t hidden = args.gate_up.cols, intermediate = args.down.cols;
  float* const gate_up = reinterpret_cast<float*>(static_cast<std::byte*>(args.workspace) + kOperandsOffset);
  float* const activation = gate_up + args.rows * 2 * intermediate;
  const bool split = SplitsFfn(args.precision, args.gate_up.dtype) && SplitsFfn(args.precision, args.down.dtype);
  void* const workspace =
      split ? static_cast<std::byte*>(args.workspace) + kOperandsOffset + FloatsBytes(args.rows, intermediate)
            : nullptr;
  LinearArgs linear;
  linear.precision = args.precision;
  linear.rows = args.rows;
  linear.x = args.x;
  linear.x_dtype = args.x_dtype;
  linear.x_stride = hidden;
  linear.w = args.gate_up;
  if (split) {  // one matrix of both
    linear.w.rows *= 2;
    linear.w.matrices = 1;
    linear.features = 2 * intermediate;
  } else {
    linear.batch = 2;
    linear.features = linear.out_batch = intermediate;
  }
  linear.workspace = workspace;
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
  linear.workspace = workspace;
  linear.out = args.out;
  return Linear(linear, stream);
}

}  // namespace

absl::Status Linear(const LinearArgs& args, cudaStream_t stream) {
  if (TakesFp8(args)) return RunFp8(args, stream);
  if (TakesBf16(args)) return RunBf16(args, stream);
  if (TakesHeads(args)) return RunHeads(args, stream);
  if (TakesSplit(args)) return RunSplit(args, stream);
  if (TakesTensorCores(args)) {
    TensorCoreLinear(args, stream);
  } else {
    PlainLinear(args, stream);
  }
  return absl::OkStatus();
}

absl::Status Ffn(const FfnArgs& args, cudaStream_t stream) {
  if (TakesFp8(args)) return RunFp8(args, stream);
  return TakesSplit(args) ? RunSplit(args, stream) : RunFloat(args, stream);
}

int64_t DenseWorkspaceBytes(const DenseLimits& limits) {
  int64_t bytes = FloatsBytes(limits.rows, limits.intermediate);
  if (limits.precision == LinearPrecision::kSplit) {
    const int64_t operands = kOperandsOffset + SplitBytes(limits.rows, std::max(limits.hidden, limits.intermediate));
    if (SplitsFfn(limits.precision, limits.weight_dtype)) bytes += operands;
    bytes = std::max(bytes, SplitBytes(limits.rows, std::max(limits.cols, limits.hidden)));
  }
  if (limits.precision == LinearPrecision::kFp8) {
    if (limits.weight_dtype == DType::kF8E4M3) bytes = 0;
    // Router logits take two terms, and bfloat16 weights beside e4m3 ones rows rounded to it.
    bytes = std::max({bytes, Fp8RowsBytes(limits.rows, limits.cols), RoundedBytes(limits.rows, limits.cols),
                      SplitBytes(limits.rows, limits.hidden),
                      Fp8RowsBytes(limits.rows, limits.hidden) + Fp8RowsBytes(limits.rows, limits.intermediate) +
                          std::min(limits.rows, kApartRowsMax) * 2 * limits.intermediate * int64_t{sizeof(float)}});
  }
  return kOperandsOffset + bytes;
}

}  // namespace conclave::cuda
