// The experts' feed-forward in float32 sums over rows of float32 or bfloat16, any shape: device_linear.cu's order of
// accumulation, with the rows of a tile taken from the sorted pairs of one expert.
#include "moe/kernels/cuda/device_ops.cuh"
#include "moe/kernels/cuda/overlap.cuh"
#include "moe/kernels/cuda/expert_sort.cuh"

namespace conclave::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kFeatures = 2;  // of a warp; each is a gate and an up in the first product
constexpr int kRows = kExpertTileRows;

// What a product reads and writes; row p of x is pair p's where by_pair, else the pair's own row.
struct ProductArgs {
  ExpertFfnArgs ffn;
  SortedPairs sorted;
  float* activation;  // [pairs, intermediate]: not rounded, so that fewer choices of experts flip behind it
};

__device__ float LoadRow(const void* rows, DType dtype, int64_t index) {
  return dtype == DType::kBF16 ? __bfloat162float(static_cast<const __nv_bfloat16*>(rows)[index])
                               : static_cast<const float*>(rows)[index];
}

__device__ void StoreRow(float value, void* rows, DType dtype, int64_t index) {
  if (dtype == DType::kBF16) {
    static_cast<__nv_bfloat16*>(rows)[index] = __float2bfloat16_rn(value);
  } else {
    static_cast<float*>(rows)[index] = value;
  }
}

template <DType kType>
__device__ float ScaledWeight(const DeviceWeight& w, int64_t matrix, int64_t row, int64_t k) {
  const float value = LoadWeight<kType>(w.data, (matrix * w.rows + row) * w.cols + k);
  if constexpr (kType == DType::kF8E4M3) return value * ScaleAt(w, matrix, row, k);
  return value;
}

// sums[r][f] = Σ_k x[index[r], k] · W[matrix, feature + f, k].
template <DType kType>
__device__ void Multiply(const void* x, DType x_dtype, const int64_t (&index)[kRows], const DeviceWeight& w,
                         int64_t matrix, int64_t feature, float (&sums)[kRows][kFeatures]) {
  for (int64_t k = (threadIdx.x & 31) * 4; k < w.cols; k += 128) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if (k + j >= w.cols) break;
      float weights[kFeatures];
#pragma unroll
      for (int f = 0; f < kFeatures; ++f) {
        weights[f] = ScaledWeight<kType>(w, matrix, min(feature + f, w.rows - 1), k + j);
      }
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        const float value = index[r] < 0 ? 0.0f : LoadRow(x, x_dtype, index[r] * w.cols + k + j);
#pragma unroll
        for (int f = 0; f < kFeatures; ++f) sums[r][f] = fmaf(value, weights[f], sums[r][f]);
      }
    }
  }
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
#pragma unroll
    for (int f = 0; f < kFeatures; ++f) sums[r][f] = WarpSum(sums[r][f]);
  }
}

// The pairs of this block's tile, -1 behind its last; false where there is no such tile.
__device__ bool TilePairs(const ProductArgs& args, int& slot, int64_t (&pairs)[kRows]) {
  slot = args.sorted.tile_slot[blockIdx.y];
  if (slot < 0) return false;
  const int begin = args.sorted.tile_begin[blockIdx.y];
  const int end = args.sorted.begins[slot] + args.sorted.counts[slot];
#pragma unroll
  for (int r = 0; r < kRows; ++r) pairs[r] = begin + r < end ? args.sorted.order[begin + r] : -1;
  return true;
}

template <DType kType>
__global__ void __launch_bounds__(kWarps * 32) GateUpKernel(ProductArgs args) {
  FollowKernelsBefore();
  int slot;
  int64_t pairs[kRows], rows[kRows];
  const int64_t feature = (static_cast<int64_t>(blockIdx.x) * kWarps + (threadIdx.x >> 5)) * kFeatures;
  const ExpertFfnArgs& ffn = args.ffn;
  if (!TilePairs(args, slot, pairs) || feature >= ffn.slots.intermediate) return;
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    rows[r] = pairs[r] < 0 ? -1 : ffn.pair_rows == nullptr ? pairs[r] / ffn.top_k : ffn.pair_rows[pairs[r]];
  }
  float gate[kRows][kFeatures] = {}, up[kRows][kFeatures] = {};
  Multiply<kType>(ffn.rows, ffn.row_dtype, rows, ffn.slots.gate_up, 2 * slot, feature, gate);
  Multiply<kType>(ffn.rows, ffn.row_dtype, rows, ffn.slots.gate_up, 2 * slot + 1, feature, up);
  if ((threadIdx.x & 31) != 0) return;
  for (int r = 0; r < kRows; ++r) {
    for (int f = 0; f < kFeatures; ++f) {
      if (pairs[r] < 0 || feature + f >= ffn.slots.intermediate) continue;
      const float product = gate[r][f] / (1.0f + expf(-gate[r][f])) * up[r][f];
      args.activation[pairs[r] * ffn.slots.intermediate + feature + f] = product;
    }
  }
}

template <DType kType>
__global__ void __launch_bounds__(kWarps * 32) DownKernel(ProductArgs args) {
  FollowKernelsBefore();
  int slot;
  int64_t pairs[kRows];
  const int64_t feature = (static_cast<int64_t>(blockIdx.x) * kWarps + (threadIdx.x >> 5)) * kFeatures;
  const ExpertFfnArgs& ffn = args.ffn;
  if (!TilePairs(args, slot, pairs) || feature >= ffn.slots.hidden) return;
  float sums[kRows][kFeatures] = {};
  Multiply<kType>(args.activation, DType::kF32, pairs, ffn.slots.down, slot, feature, sums);
  if ((threadIdx.x & 31) != 0) return;
  for (int r = 0; r < kRows; ++r) {
    for (int f = 0; f < kFeatures; ++f) {
      if (pairs[r] < 0 || feature + f >= ffn.slots.hidden) continue;
      StoreRow(sums[r][f], ffn.out, ffn.row_dtype, pairs[r] * ffn.slots.hidden + feature + f);
    }
  }
}

int64_t ActivationOffset(int64_t pairs, int slots) { return (SortedPairsBytes(pairs, slots, 1) + 255) / 256 * 256; }

unsigned FeatureBlocks(int features) {
  return static_cast<unsigned>((features + kWarps * kFeatures - 1) / (kWarps * kFeatures));
}

}  // namespace

int64_t PlainExpertBytes(int64_t pairs, const ExpertSlots& slots) {
  return ActivationOffset(pairs, slots.slots) + pairs * slots.intermediate * static_cast<int64_t>(sizeof(float));
}

void RunPlainExperts(const ExpertFfnArgs& ffn, cudaStream_t stream) {
  ProductArgs args;
  args.ffn = ffn;
  args.sorted = SortedPairsIn(ffn.workspace, ffn.pairs, ffn.slots.slots, 1);
  args.activation = reinterpret_cast<float*>(static_cast<std::byte*>(ffn.workspace) +
                                             ActivationOffset(ffn.pairs, ffn.slots.slots));
  SortPairs(ffn, args.sorted, 1, stream);
  const unsigned tiles = static_cast<unsigned>(args.sorted.tiles_max);
  ForWeightType(ffn.slots.gate_up.dtype, [&]<DType kType>() {
    LaunchOverlapped(GateUpKernel<kType>, dim3(FeatureBlocks(ffn.slots.intermediate), tiles), kWarps * 32, 0, stream,
                     args);
  });
  ForWeightType(ffn.slots.down.dtype, [&]<DType kType>() {
    LaunchOverlapped(DownKernel<kType>, dim3(FeatureBlocks(ffn.slots.hidden), tiles), kWarps * 32, 0, stream, args);
  });
}

}  // namespace conclave::cuda
