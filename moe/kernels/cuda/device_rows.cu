// Everything that works row by row but the norms: embedding, rotations, activations, sums.
#include "moe/kernels/cuda/device_ops.cuh"
#include "moe/kernels/cuda/overlap.cuh"
#include "moe/tensor/latent_row.h"

namespace conclave::cuda {
namespace {

constexpr int kThreads = 256;
// Of a row that is one block's: one step's latency counts where rows are few.
constexpr int kRowThreads = 1024;

unsigned Blocks(int64_t count) { return static_cast<unsigned>((count + kThreads - 1) / kThreads); }

__device__ inline int64_t GlobalThread() { return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; }

template <DType kType>
__global__ void EmbedKernel(EmbedArgs args) {
  FollowKernelsBefore();
  const int64_t row = blockIdx.x;
  const int64_t token = args.tokens[row];
  if (threadIdx.x == 0) args.fault_layer[row] = kNoFault;
  for (int64_t i = threadIdx.x; i < args.table.cols; i += blockDim.x) {
    const float value = LoadWeight<kType>(args.table.data, token * args.table.cols + i);
    args.out[row * args.table.cols + i] = value * ScaleAt(args.table, 0, token, i);
  }
}

// Four columns at once.
template <DType kType>
__global__ void __launch_bounds__(kThreads) EmbedFourKernel(EmbedArgs args) {
  FollowKernelsBefore();
  const int64_t row = blockIdx.x;
  const int64_t token = args.tokens[row];
  if (threadIdx.x == 0) args.fault_layer[row] = kNoFault;
#pragma unroll 8
  for (int64_t i = 4 * threadIdx.x; i < args.table.cols; i += 4 * kThreads) {
    const float4 x = LoadWeight4<kType>(args.table.data, token * args.table.cols + i);
    const float scale = ScaleAt(args.table, 0, token, i);
    *reinterpret_cast<float4*>(args.out + row * args.table.cols + i) =
        make_float4(x.x * scale, x.y * scale, x.z * scale, x.w * scale);
  }
}

// Pair `i` of a head, rotated; load(index) gives its two halves, store(index, value) takes them.
template <typename Load, typename Store>
__device__ void RotatePair(const RopeTable& rope, int64_t position, int i, Load load, Store store) {
  const int first = rope.interleaved ? 2 * i : i;
  const int second = rope.interleaved ? 2 * i + 1 : i + rope.pairs;
  const float a = load(first), b = load(second);
  const float c = rope.cosines[position * rope.pairs + i], s = rope.sines[position * rope.pairs + i];
  store(first, __fsub_rn(__fmul_rn(a, c), __fmul_rn(b, s)));
  store(second, __fadd_rn(__fmul_rn(b, c), __fmul_rn(a, s)));
}

// A latent in eight bits, as PackLatentRow has it: a warp for each block of 128 values.
__device__ void PackLatent(const FillCacheArgs& args, const LatentRowLayout& layout, const float* x, float factor,
                           uint8_t* packed) {
  constexpr int kBlock = LatentRowLayout::kLatentBlock;
  const int lane = threadIdx.x & 31;
  for (int block = threadIdx.x >> 5; block < layout.scales(); block += blockDim.x >> 5) {
    float values[kBlock / 32];
    uint32_t largest = 0;  // as bits, which sort as the magnitudes do
#pragma unroll
    for (int j = 0; j < kBlock / 32; ++j) {
      const int i = block * kBlock + j * 32 + lane;
      values[j] = i < args.latent ? x[i] * factor * args.weight[i] : 0.0f;
      largest = max(largest, __float_as_uint(values[j]) & 0x7fffffffu);
    }
#pragma unroll
    for (int offset = 16; offset > 0; offset >>= 1) {
      largest = max(largest, __shfl_xor_sync(0xffffffffu, largest, offset));
    }
    const int above = (largest & 0x7fffffu) > 0x600000u;  // 1.75 * 2^exponent: 448 is the largest code
    const int exponent = max(static_cast<int>(largest >> 23) - 127 - (above ? 7 : 8), -100);
    const float inverse = __uint_as_float(static_cast<uint32_t>(127 - exponent) << 23);
#pragma unroll
    for (int j = 0; j < kBlock / 32; ++j) {
      const int i = block * kBlock + j * 32 + lane;
      if (i < args.latent) packed[i] = __nv_cvt_float_to_fp8(values[j] * inverse, __NV_SATFINITE, __NV_E4M3);
    }
    // What is not finite is not mended: its sequence ends with an error.
    if (lane == 0) packed[layout.scales_at() + block] = largest >= 0x7f800000u ? 0xff : exponent + 127;
  }
}

__global__ void FillPackedCacheKernel(FillCacheArgs args) {
  FollowKernelsBefore();
  const int64_t row = blockIdx.x;
  const LatentRowLayout layout = {args.latent, 2 * args.rope.pairs};
  const float* x = args.x + row * args.x_stride;
  uint8_t* const packed = static_cast<uint8_t*>(args.cache) + args.cache_rows[row] * layout.bytes();
  PackLatent(args, layout, x, NormFactor(x, args.latent, args.eps), packed);
  for (int i = threadIdx.x; i < args.rope.pairs; i += blockDim.x) {
    RotatePair(args.rope, args.positions[row], i, [&](int half) { return x[args.latent + half]; },
               [&](int half, float value) { StoreAs(packed + layout.rope_at(), DType::kBF16, half, value); });
  }
}

__global__ void FillCacheKernel(FillCacheArgs args) {
  FollowKernelsBefore();
  const int64_t row = blockIdx.x, width = args.latent + 2 * args.rope.pairs;
  const float* x = args.x + row * args.x_stride;
  const int64_t base = static_cast<int64_t>(args.cache_rows[row]) * width;
  const auto store = [&](int64_t i, float value) { StoreAs(args.cache, args.cache_dtype, base + i, value); };
  const float factor = NormFactor(x, args.latent, args.eps);
  for (int i = threadIdx.x; i < args.latent; i += blockDim.x) store(i, x[i] * factor * args.weight[i]);
  for (int i = threadIdx.x; i < args.rope.pairs; i += blockDim.x) {
    RotatePair(args.rope, args.positions[row], i, [&](int half) { return x[args.latent + half]; },
               [&](int half, float value) { store(args.latent + half, value); });
  }
}

__global__ void RotateKernel(RotateArgs args) {
  FollowKernelsBefore();
  const int64_t index = GlobalThread();
  const int64_t head = index / args.rope.pairs;  // of all rows
  if (head >= args.rows * args.heads) return;
  const int rope = 2 * args.rope.pairs;
  const int64_t base = head * (args.latent + rope) + args.latent;
  RotatePair(args.rope, args.positions[head / args.heads], static_cast<int>(index % args.rope.pairs),
             [&](int half) { return LoadFrom(args.query, args.dtype, head * (args.nope + rope) + args.nope + half); },
             [&](int half, float value) { StoreAs(args.out, args.dtype, base + half, value); });
}

// RotateKernel for neighbours in bfloat16, four pairs a thread.
__global__ void RotateFourKernel(RotateArgs args) {
  FollowKernelsBefore();
  const int fours = args.rope.pairs / 4, rope = 2 * args.rope.pairs;
  const int64_t index = GlobalThread(), head = index / fours;  // of all rows
  if (head >= args.rows * args.heads) return;
  const int first = static_cast<int>(index % fours) * 4;  // of the pairs
  const int64_t angle = int64_t{args.positions[head / args.heads]} * args.rope.pairs + first;
  const float4 c = *reinterpret_cast<const float4*>(args.rope.cosines + angle);
  const float4 s = *reinterpret_cast<const float4*>(args.rope.sines + angle);
  const auto* x = static_cast<const __nv_bfloat16*>(args.query) + head * (args.nope + rope) + args.nope + 2 * first;
  auto* out = static_cast<__nv_bfloat16*>(args.out) + head * (args.latent + rope) + args.latent + 2 * first;
  const uint4 pairs = *reinterpret_cast<const uint4*>(x);
  const auto rotate = [](uint32_t pair, float cosine, float sine) {
    const float a = __uint_as_float(pair << 16), b = __uint_as_float(pair & 0xffff0000u);
    const __nv_bfloat162 rotated = __floats2bfloat162_rn(__fsub_rn(__fmul_rn(a, cosine), __fmul_rn(b, sine)),
                                                         __fadd_rn(__fmul_rn(b, cosine), __fmul_rn(a, sine)));
    return *reinterpret_cast<const uint32_t*>(&rotated);
  };
  *reinterpret_cast<uint4*>(out) = make_uint4(rotate(pairs.x, c.x, s.x), rotate(pairs.y, c.y, s.y),
                                              rotate(pairs.z, c.z, s.z), rotate(pairs.w, c.w, s.w));
}

__global__ void SiluMulKernel(SiluMulArgs args) {
  FollowKernelsBefore();
  const int64_t index = GlobalThread();
  if (index >= args.rows * args.cols) return;
  const float* x = args.x + index / args.cols * 2 * args.cols + index % args.cols;
  args.out[index] = x[0] / (1.0f + expf(-x[0])) * x[args.cols];
}

__global__ void AddKernel(AddArgs args) {
  FollowKernelsBefore();
  const int64_t index = GlobalThread();
  if (index >= args.rows * args.cols) return;
  const float sum = args.acc[index] + args.y[index];
  args.acc[index] = sum;
  if (!isfinite(sum)) atomicMin(&args.fault_layer[index / args.cols], args.layer);
}

// Four columns a thread.
__global__ void AddFourKernel(AddArgs args) {
  FollowKernelsBefore();
  const int64_t index = GlobalThread();
  if (index >= args.rows * args.cols / 4) return;
  float4 sum = reinterpret_cast<const float4*>(args.acc)[index];
  const float4 y = reinterpret_cast<const float4*>(args.y)[index];
  sum = make_float4(sum.x + y.x, sum.y + y.y, sum.z + y.z, sum.w + y.w);
  reinterpret_cast<float4*>(args.acc)[index] = sum;
  if (!(isfinite(sum.x) && isfinite(sum.y) && isfinite(sum.z) && isfinite(sum.w))) {
    atomicMin(&args.fault_layer[4 * index / args.cols], args.layer);
  }
}

__global__ void CombineKernel(CombineArgs args) {
  FollowKernelsBefore();
  const int64_t index = GlobalThread();
  if (index >= args.rows * args.cols) return;
  const int64_t row = index / args.cols, col = index % args.cols;
  float sum = args.from_zero ? 0.0f : args.acc[index];
  for (int k = 0; k < args.top_k; ++k) {
    const int64_t at = (row * args.top_k + k) * args.cols + col;
    sum = fmaf(args.weights[row * args.top_k + k], LoadFrom(args.expert_rows, args.row_dtype, at), sum);
  }
  args.acc[index] = sum;
}

// A block for each row; `Piece` is as much as a thread copies at once.
template <typename Piece>
__global__ void __launch_bounds__(kThreads) GatherRowsKernel(GatherRowsArgs args) {
  FollowKernelsBefore();
  const int64_t row = blockIdx.x, pieces = args.row_bytes / static_cast<int64_t>(sizeof(Piece));
  const auto* const from = static_cast<const Piece*>(args.from[row]);
  Piece* const to = static_cast<Piece*>(args.to) + row * pieces;
#pragma unroll 4
  for (int64_t i = threadIdx.x; i < pieces; i += kThreads) to[i] = from[i];
}

}  // namespace

void Embed(const EmbedArgs& args, cudaStream_t stream) {
  const bool fours = args.table.cols % 4 == 0 && (args.table.scales == nullptr || args.table.block_cols % 4 == 0);
  ForWeightType(args.table.dtype, [&]<DType kType>() {
    if (fours) {
      LaunchOverlapped(EmbedFourKernel<kType>, dim3(static_cast<unsigned>(args.rows)), kThreads, 0, stream, args);
      return;
    }
    LaunchOverlapped(EmbedKernel<kType>, dim3(static_cast<unsigned>(args.rows)), kRowThreads, 0, stream, args);
  });
}

void FillCache(const FillCacheArgs& args, cudaStream_t stream) {
  const auto kernel = args.cache_dtype == DType::kF8E4M3 ? FillPackedCacheKernel : FillCacheKernel;
  LaunchOverlapped(kernel, dim3(static_cast<unsigned>(args.rows)), kThreads, 0, stream, args);
}

void RotateQueries(const RotateArgs& args, cudaStream_t stream) {
  if (args.dtype == DType::kBF16 && args.rope.interleaved && args.rope.pairs % 4 == 0 && args.nope % 8 == 0 &&
      args.latent % 8 == 0) {
    LaunchOverlapped(RotateFourKernel, dim3(Blocks(args.rows * args.heads * (args.rope.pairs / 4))), kThreads, 0,
                     stream, args);
    return;
  }
  LaunchOverlapped(RotateKernel, dim3(Blocks(args.rows * args.heads * args.rope.pairs)), kThreads, 0, stream, args);
}

void SiluMul(const SiluMulArgs& args, cudaStream_t stream) {
  LaunchOverlapped(SiluMulKernel, dim3(Blocks(args.rows * args.cols)), kThreads, 0, stream, args);
}

void AddToResidual(const AddArgs& args, cudaStream_t stream) {
  if (args.cols % 4 == 0) {
    LaunchOverlapped(AddFourKernel, dim3(Blocks(args.rows * args.cols / 4)), kThreads, 0, stream, args);
    return;
  }
  LaunchOverlapped(AddKernel, dim3(Blocks(args.rows * args.cols)), kThreads, 0, stream, args);
}

// Rows lie at multiples of their length from where memory begins, which is aligned.
void GatherRows(const GatherRowsArgs& args, cudaStream_t stream) {
  if (args.rows == 0) return;
  const auto kernel = args.row_bytes % sizeof(uint4) == 0 ? GatherRowsKernel<uint4> : GatherRowsKernel<uint16_t>;
  LaunchOverlapped(kernel, dim3(static_cast<unsigned>(args.rows)), kThreads, 0, stream, args);
}

void Combine(const CombineArgs& args, cudaStream_t stream) {
  LaunchOverlapped(CombineKernel, dim3(Blocks(args.rows * args.cols)), kThreads, 0, stream, args);
}

}  // namespace conclave::cuda
