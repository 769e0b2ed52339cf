// See tc_linear.cuh for the order of accumulation that both kernels keep.
#include "moe/kernels/cuda/overlap.cuh"
#include "moe/kernels/cuda/tc_linear.cuh"

namespace conclave::cuda {
namespace {

using tc::kBlockK;
using tc::kFeatures;
using tc::kSlices;

constexpr int kThreads = kSlices * 32;

// Where a lane's two features lie in the weights, clamped to the last one.
struct LaneFeatures {
  int64_t matrix, row_low, row_high;  // rows of the matrix
  __device__ LaneFeatures(const LinearArgs& args, int64_t first) {
    const int g = (threadIdx.x & 31) >> 2;
    matrix = args.w.matrices > 1 ? blockIdx.z : 0;
    const int64_t begin = args.row_begin + blockIdx.z * args.row_step;
    row_low = begin + min(first + g, args.features - 1);
    row_high = begin + min(first + g + 8, args.features - 1);
  }
  __device__ int64_t Base(const DeviceWeight& w, int64_t row) const { return (matrix * w.rows + row) * w.cols; }
};

__device__ void Store(const LinearArgs& args, int64_t row, int64_t feature, float sum) {
  if (row >= args.rows || feature >= args.features) return;
  const float bias = args.bias == nullptr ? 0.0f : args.bias[feature];
  StoreAs(args.out, args.out_dtype, row * args.out_stride + blockIdx.z * args.out_batch + feature, sum + bias);
}

// Four neighbouring activations: two pairs of bfloat16, and with two terms what their rounding lost.
template <typename X, int kTerms>
struct FourActivations {
  uint32_t high[2], low[kTerms == 2 ? 2 : 1];

  __device__ explicit FourActivations(const typename tc::Four<X>& x) {
    if constexpr (sizeof(X) == 2) {
      high[0] = x.x;
      high[1] = x.y;
    } else {
      high[0] = tc::HighPair(x.x, x.y);
      high[1] = tc::HighPair(x.z, x.w);
      if constexpr (kTerms == 2) {
        low[0] = tc::LowPair(x.x, x.y, high[0]);
        low[1] = tc::LowPair(x.z, x.w, high[1]);
      }
    }
  }
};

// Few rows: a block owns 16 features, warp s slice s; kTiles tiles of 8 rows.
template <DType kType, typename X, int kTiles, int kTerms>
__global__ void __launch_bounds__(kThreads) NarrowKernel(LinearArgs args) {
  FollowKernelsBefore();
  __shared__ float slices[kSlices][kFeatures][kTiles * 8 + 1];
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = lane >> 2, t = lane & 3;
  const int64_t first_feature = static_cast<int64_t>(blockIdx.x) * kFeatures;
  const int64_t first_row = static_cast<int64_t>(blockIdx.y) * kTiles * 8;
  const LaneFeatures lanes(args, first_feature);
  const int64_t base_low = lanes.Base(args.w, lanes.row_low), base_high = lanes.Base(args.w, lanes.row_high);
  const X* x[kTiles];
#pragma unroll
  for (int r = 0; r < kTiles; ++r) {
    x[r] = static_cast<const X*>(args.x) + min(first_row + r * 8 + g, args.rows - 1) * args.x_stride +
           blockIdx.z * args.x_batch;
  }
  constexpr int kSums = tc::kSumsOf<kType, kTerms>;
  float slice[kTiles][4] = {}, block[kTiles][kSums][4] = {};
  tc::WeightBlock<kType> now, next;
  int64_t k = static_cast<int64_t>(warp) * kBlockK;
  if (k < args.w.cols) next.Load(args.w, base_low, base_high, k);
  for (; k < args.w.cols; k += kSlices * kBlockK) {
    now = next;
    if (k + kSlices * kBlockK < args.w.cols) next.Load(args.w, base_low, base_high, k + kSlices * kBlockK);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int step = 0; step < 4; ++step) {
        uint32_t w[4];
        now.Fragment(half, step, w);
#pragma unroll
        for (int r = 0; r < kTiles; ++r) {
          const FourActivations<X, kTerms> four(
              *reinterpret_cast<const tc::Four<X>*>(x[r] + k + half * 64 + tc::LaneColumn<kType>(step, t)));
          tc::Multiply(block[r][0], w, four.high[0], four.high[1]);
          if constexpr (kTerms == 2) tc::Multiply(block[r][kSums - 1], w, four.low[0], four.low[1]);
        }
      }
    }
    if constexpr (kType == DType::kF8E4M3) {
      const float scale_low = ScaleAt(args.w, lanes.matrix, lanes.row_low, k);
      const float scale_high = ScaleAt(args.w, lanes.matrix, lanes.row_high, k);
#pragma unroll
      for (int r = 0; r < kTiles; ++r) tc::JoinSlice(slice[r], block[r][0], scale_low, scale_high);
    }
  }
#pragma unroll
  for (int r = 0; r < kTiles; ++r) {
    if constexpr (kType == DType::kBF16) tc::JoinTerms(slice[r], block[r]);
#pragma unroll
    for (int i = 0; i < 4; ++i) slices[warp][g + (i >> 1) * 8][r * 8 + 2 * t + (i & 1)] = slice[r][i];
  }
  __syncthreads();
  for (int i = threadIdx.x; i < kFeatures * kTiles * 8; i += kThreads) {
    const int feature = i % kFeatures, row = i / kFeatures;
    float sum = slices[0][feature][row];
    for (int s = 1; s < kSlices; ++s) sum += slices[s][feature][row];
    Store(args, first_row + row, first_feature + feature, sum);
  }
}

constexpr int kWideTiles = 8;             // of 8 rows
constexpr int kWideRows = kWideTiles * 8;
// Bytes of a row of shared memory; what is more than the row spreads a warp's reads over all banks.
template <DType kType>
constexpr int kRowBytes = kBlockK * 2 + (kType == DType::kBF16 ? 32 : 8);
constexpr int kLoads = kWideRows * kBlockK / 4 / kThreads;  // float4s of a thread

// Rows of one block of K as bfloat16 in shared memory.
template <DType kType, typename X, int kTerms>
__device__ __forceinline__ void StageRows(const tc::Four<X> (&fetched)[kLoads],
                                          std::byte (&shared)[kTerms][kWideRows * kRowBytes<kType>]) {
#pragma unroll
  for (int i = 0; i < kLoads; ++i) {
    const int index = i * kThreads + threadIdx.x, at = (index >> 5) * kRowBytes<kType> + (index & 31) * 8;
    const FourActivations<X, kTerms> four(fetched[i]);
    *reinterpret_cast<uint2*>(&shared[0][at]) = make_uint2(four.high[0], four.high[1]);
    if constexpr (kTerms == 2) *reinterpret_cast<uint2*>(&shared[1][at]) = make_uint2(four.low[0], four.low[1]);
  }
}

// block += the weights of one block of K times the staged rows.
template <DType kType, int kTerms, int kSums>
__device__ __forceinline__ void MultiplyBlock(const tc::WeightBlock<kType>& weights,
                                              const std::byte (&shared)[kTerms][kWideRows * kRowBytes<kType>],
                                              float (&block)[kWideTiles][kSums][4]) {
  const int g = (threadIdx.x & 31) >> 2, t = threadIdx.x & 3;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      uint32_t w[4];
      weights.Fragment(half, step, w);
#pragma unroll
      for (int r = 0; r < kWideTiles; ++r) {
        const int at = (r * 8 + g) * kRowBytes<kType> + (half * 64 + tc::LaneColumn<kType>(step, t)) * 2;
#pragma unroll
        for (int term = 0; term < kTerms; ++term) {
          const uint2 x = *reinterpret_cast<const uint2*>(&shared[term][at]);
          tc::Multiply(block[r][term % kSums], w, x.x, x.y);
        }
      }
    }
  }
}

// Many rows: a warp owns 16 features, all eight share the block's rows through shared memory.
template <DType kType, typename X, int kTerms>
__global__ void __launch_bounds__(kThreads, 1) WideKernel(LinearArgs args) {
  FollowKernelsBefore();
  __shared__ __align__(16) std::byte shared[kTerms][kWideRows * kRowBytes<kType>];
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = lane >> 2, t = lane & 3;
  const int64_t first_feature = static_cast<int64_t>(blockIdx.y) * kSlices * kFeatures + warp * kFeatures;
  const int64_t first_row = static_cast<int64_t>(blockIdx.x) * kWideRows;
  const LaneFeatures lanes(args, first_feature);
  const int64_t base_low = lanes.Base(args.w, lanes.row_low), base_high = lanes.Base(args.w, lanes.row_high);
  constexpr int kSums = tc::kSumsOf<kType, kTerms>;
  float total[kWideTiles][4] = {}, slice[kWideTiles][4] = {}, block[kWideTiles][kSums][4] = {};
  tc::WeightBlock<kType> now, next;
  tc::Four<X> fetched[kLoads];
  const auto fetch = [&](int64_t k) {
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const int index = i * kThreads + threadIdx.x, row = index >> 5, col = (index & 31) * 4;
      fetched[i] = *reinterpret_cast<const tc::Four<X>*>(static_cast<const X*>(args.x) +
                                                         min(first_row + row, args.rows - 1) * args.x_stride +
                                                         blockIdx.z * args.x_batch + k + col);
    }
    next.Load(args.w, base_low, base_high, k);
  };
  fetch(0);
  int64_t k = 0;
  for (int s = 0; s < kSlices; ++s) {
    for (k = static_cast<int64_t>(s) * kBlockK; k < args.w.cols; k += kSlices * kBlockK) {
      __syncthreads();
      StageRows<kType, X, kTerms>(fetched, shared);
      now = next;
      __syncthreads();
      // The block after this one: in this slice, else the first of the next.
      int64_t following = k + kSlices * kBlockK;
      if (following >= args.w.cols) following = static_cast<int64_t>(s + 1) * kBlockK;
      if (s + 1 < kSlices || following != static_cast<int64_t>(s + 1) * kBlockK) {
        if (following < args.w.cols) fetch(following);
      }
      MultiplyBlock<kType, kTerms, kSums>(now, shared, block);
      if constexpr (kType == DType::kF8E4M3) {
        const float scale_low = ScaleAt(args.w, lanes.matrix, lanes.row_low, k);
        const float scale_high = ScaleAt(args.w, lanes.matrix, lanes.row_high, k);
#pragma unroll
        for (int r = 0; r < kWideTiles; ++r) tc::JoinSlice(slice[r], block[r][0], scale_low, scale_high);
      }
    }
#pragma unroll
    for (int r = 0; r < kWideTiles; ++r) {
      if constexpr (kType == DType::kBF16) tc::JoinTerms(slice[r], block[r]);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        total[r][i] = s == 0 ? slice[r][i] : total[r][i] + slice[r][i];
        slice[r][i] = 0.0f;
      }
    }
  }
#pragma unroll
  for (int r = 0; r < kWideTiles; ++r) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      Store(args, first_row + r * 8 + 2 * t + (i & 1), first_feature + g + (i >> 1) * 8, total[r][i]);
    }
  }
}

template <DType kType, typename X, int kTerms>
void Launch(const LinearArgs& args, cudaStream_t stream) {
  const unsigned batch = static_cast<unsigned>(args.batch);
  const auto narrow = [&]<int kTiles>() {
    const dim3 grid(static_cast<unsigned>((args.features + kFeatures - 1) / kFeatures),
                    static_cast<unsigned>((args.rows + kTiles * 8 - 1) / (kTiles * 8)), batch);
    LaunchOverlapped(NarrowKernel<kType, X, kTiles, kTerms>, grid, kThreads, 0, stream, args);
  };
  if (args.rows <= 8) return narrow.template operator()<1>();
  if (args.rows <= 16) return narrow.template operator()<2>();
  // Few features would leave the wide kernel's blocks on a few multiprocessors.
  constexpr int64_t kBusyBlocks = 256;
  const int64_t blocks = (args.features + kFeatures - 1) / kFeatures * ((args.rows + 31) / 32) * args.batch;
  if (args.rows <= 32 || blocks <= kBusyBlocks) return narrow.template operator()<4>();
  const dim3 grid(static_cast<unsigned>((args.rows + kWideRows - 1) / kWideRows),
                  static_cast<unsigned>((args.features + kSlices * kFeatures - 1) / (kSlices * kFeatures)), batch);
  LaunchOverlapped(WideKernel<kType, X, kTerms>, grid, kThreads, 0, stream, args);
}

}  // namespace

bool TakesTensorCores(const LinearArgs& args) {
  const bool bf16 = args.w.dtype == DType::kBF16 && args.w.scales == nullptr;
  const bool e4m3 = args.w.dtype == DType::kF8E4M3 && (args.w.scales == nullptr || args.w.block_cols == kBlockK);
  return (bf16 || e4m3) && !args.transposed && args.precision != LinearPrecision::kFloat32 &&
         args.w.cols % kBlockK == 0 && args.x_stride % 4 == 0 && args.x_batch % 4 == 0;
}

void TensorCoreLinear(const LinearArgs& args, cudaStream_t stream) {
  const auto launch = [&]<DType kType>() {
    if (args.x_dtype == DType::kBF16) return Launch<kType, __nv_bfloat16, 1>(args, stream);
    if (args.precision == LinearPrecision::kSplit) return Launch<kType, float, 2>(args, stream);
    Launch<kType, float, 1>(args, stream);
  };
  if (args.w.dtype == DType::kBF16) return launch.operator()<DType::kBF16>();
  launch.operator()<DType::kF8E4M3>();
}

}  // namespace conclave::cuda
