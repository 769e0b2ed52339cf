// Products in float32 over the stored weights. A warp owns a few output features; lane l multiplies the columns
// 4l … 4l + 3 of every 128, ascending, and the lanes' sums meet in one fixed tree. Rows are tiled only so that a weight
// that was read serves several of them.
#include "moe/kernels/cuda/device_ops.cuh"
#include "moe/kernels/cuda/overlap.cuh"

namespace conclave::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kFeatures = 4;  // of a warp

template <DType kType>
__device__ float4 ScaledWeights(const DeviceWeight& w, int64_t matrix, int64_t row, int64_t k, bool vectors) {
  const int64_t index = (matrix * w.rows + row) * w.cols + k;
  float4 four;
  if (vectors) {
    four = LoadWeight4<kType>(w.data, index);
  } else {
    four.x = LoadWeight<kType>(w.data, index);
    four.y = k + 1 < w.cols ? LoadWeight<kType>(w.data, index + 1) : 0.0f;
    four.z = k + 2 < w.cols ? LoadWeight<kType>(w.data, index + 2) : 0.0f;
    four.w = k + 3 < w.cols ? LoadWeight<kType>(w.data, index + 3) : 0.0f;
  }
  if constexpr (kType == DType::kF8E4M3) {
    const float scale = ScaleAt(w, matrix, row, k);  // blocks are multiples of 4 wide
    four = make_float4(four.x * scale, four.y * scale, four.z * scale, four.w * scale);
  }
  return four;
}

// Elements begin + k … begin + k + 3 of x, zeros from `cols` on.
__device__ float4 Load4(const LinearArgs& args, int64_t begin, int64_t k, bool vectors) {
  if (args.x_dtype == DType::kF32 && vectors) {
    return *reinterpret_cast<const float4*>(static_cast<const float*>(args.x) + begin + k);
  }
  const auto at = [&](int64_t i) { return i < args.w.cols ? LoadFrom(args.x, args.x_dtype, begin + i) : 0.0f; };
  return make_float4(at(k), at(k + 1), at(k + 2), at(k + 3));
}

template <DType kType, int kRows>
__global__ void __launch_bounds__(kWarps * 32) LinearKernel(LinearArgs args, bool vectors) {
  FollowKernelsBefore();
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const int64_t batch = blockIdx.z, matrix = args.w.matrices > 1 ? batch : 0;
  const int64_t feature = (static_cast<int64_t>(blockIdx.x) * kWarps + warp) * kFeatures;
  const int64_t first_row = static_cast<int64_t>(blockIdx.y) * kRows;
  if (feature >= args.features) return;
  const int64_t w_row = args.row_begin + batch * args.row_step;
  float sums[kRows][kFeatures] = {};
  for (int64_t k = lane * 4; k < args.w.cols; k += 128) {
    float4 w[kFeatures];
#pragma unroll
    for (int f = 0; f < kFeatures; ++f) {
      const int64_t row = w_row + min(feature + f, args.features - 1);
      w[f] = ScaledWeights<kType>(args.w, matrix, row, k, vectors);
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const int64_t row = min(first_row + r, args.rows - 1);
      const float4 x = Load4(args, row * args.x_stride + batch * args.x_batch, k, vectors);
#pragma unroll
      for (int f = 0; f < kFeatures; ++f) {
        sums[r][f] = fmaf(x.x, w[f].x, sums[r][f]);
        sums[r][f] = fmaf(x.y, w[f].y, sums[r][f]);
        sums[r][f] = fmaf(x.z, w[f].z, sums[r][f]);
        sums[r][f] = fmaf(x.w, w[f].w, sums[r][f]);
      }
    }
  }
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
#pragma unroll
    for (int f = 0; f < kFeatures; ++f) {
      const float sum = WarpSum(sums[r][f]);
      if (lane != 0 || first_row + r >= args.rows || feature + f >= args.features) continue;
      const float bias = args.bias == nullptr ? 0.0f : args.bias[feature + f];
      StoreAs(args.out, args.out_dtype, (first_row + r) * args.out_stride + batch * args.out_batch + feature + f,
              sum + bias);
    }
  }
}

// A thread owns one output column; the rows of W are added in ascending order.
template <DType kType, int kRows>
__global__ void __launch_bounds__(128) TransposedKernel(LinearArgs args) {
  FollowKernelsBefore();
  const int64_t batch = blockIdx.z, matrix = args.w.matrices > 1 ? batch : 0;
  const int64_t col = static_cast<int64_t>(blockIdx.x) * 128 + threadIdx.x;
  const int64_t first_row = static_cast<int64_t>(blockIdx.y) * kRows;
  if (col >= args.w.cols) return;
  const int64_t w_row = args.row_begin + batch * args.row_step;
  float sums[kRows] = {};
  for (int64_t n = 0; n < args.features; ++n) {
    float w = LoadWeight<kType>(args.w.data, (matrix * args.w.rows + w_row + n) * args.w.cols + col);
    if constexpr (kType == DType::kF8E4M3) w *= ScaleAt(args.w, matrix, w_row + n, col);
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const int64_t row = min(first_row + r, args.rows - 1);
      sums[r] = fmaf(LoadFrom(args.x, args.x_dtype, row * args.x_stride + batch * args.x_batch + n), w, sums[r]);
    }
  }
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    if (first_row + r >= args.rows) continue;
    StoreAs(args.out, args.out_dtype, (first_row + r) * args.out_stride + batch * args.out_batch + col, sums[r]);
  }
}

template <DType kType, int kRows>
void Launch(const LinearArgs& args, cudaStream_t stream) {
  const unsigned tiles = static_cast<unsigned>((args.rows + kRows - 1) / kRows);
  const unsigned batch = static_cast<unsigned>(args.batch);
  if (args.transposed) {
    const unsigned columns = static_cast<unsigned>((args.w.cols + 127) / 128);
    LaunchOverlapped(TransposedKernel<kType, kRows>, dim3(columns, tiles, batch), 128, 0, stream, args);
    return;
  }
  const unsigned features = static_cast<unsigned>((args.features + kWarps * kFeatures - 1) / (kWarps * kFeatures));
  const bool vectors = args.w.cols % 4 == 0 && args.x_stride % 4 == 0 && args.x_batch % 4 == 0;
  LaunchOverlapped(LinearKernel<kType, kRows>, dim3(features, tiles, batch), kWarps * 32, 0, stream, args, vectors);
}

}  // namespace

void PlainLinear(const LinearArgs& args, cudaStream_t stream) {
  ForWeightType(args.w.dtype, [&]<DType kType>() {
    if (args.rows == 1) return Launch<kType, 1>(args, stream);
    if (args.rows <= 2) return Launch<kType, 2>(args, stream);
    if (args.rows <= 4) return Launch<kType, 4>(args, stream);
    return Launch<kType, 8>(args, stream);
  });
}

}  // namespace conclave::cuda
