// Absorbed MLA over a paged latent cache: a warp owns one row and head. Positions are walked in chunks of
// kAttentionChunkTokens from zero, and chunks merge in ascending order by the running-maximum formula (Milakov and
// Gimelshein 2018), so that what stands beside a row never enters its sums.
//
// bfloat16 goes to mla_decode.h where its tensor-core kernel takes the shape.
#include "moe/kernels/cuda/device_ops.cuh"
#include "moe/kernels/cuda/hopper_code.h"
#include "moe/kernels/cuda/overlap.cuh"
#include "moe/kernels/cuda/mla_decode.h"
#include "moe/tensor/latent_row.h"

namespace conclave::cuda {
namespace {

constexpr int kHeads = 8;  // of a block, which share the latents that they read
constexpr int kChunk = kAttentionChunkTokens;
static_assert(kChunk == 64);

template <typename T>
__device__ float ToFloat(T value) {
  if constexpr (sizeof(T) == 2) return __bfloat162float(value);
  else return value;
}

// A cached row of T.
template <typename T>
struct CachedRow {
  const T* values;
  __device__ CachedRow(const AttendArgs& args, int64_t row)
      : values(static_cast<const T*>(args.cache) + row * (args.latent + args.rope)) {}
  __device__ float At(int i) const { return ToFloat(values[i]); }
};
// One in eight bits: moe/tensor/latent_row.h.
struct Packed {};
template <>
struct CachedRow<Packed> {
  LatentRowLayout layout;
  const uint8_t* packed;
  __device__ CachedRow(const AttendArgs& args, int64_t row)
      : layout{args.latent, args.rope}, packed(static_cast<const uint8_t*>(args.cache) + row * layout.bytes()) {}
  __device__ float At(int i) const {
    if (i >= layout.latent) {
      return ToFloat(reinterpret_cast<const __nv_bfloat16*>(packed + layout.rope_at())[i - layout.latent]);
    }
    const uint32_t exponent = packed[layout.scales_at() + i / LatentRowLayout::kLatentBlock];
    const float scale = __uint_as_float(exponent == 0xff ? 0x7fc00000u : exponent << 23);
    const __half_raw code = __nv_cvt_fp8_to_halfraw(packed[i], __NV_E4M3);
    return __half2float(__half(code)) * scale;
  }
};

// Lane l holds the elements l, l + 32, … of the query and of the sum.
template <typename T, typename Cached, int kElements>
__global__ void __launch_bounds__(kHeads * 32) AttendKernel(AttendArgs args) {
  FollowKernelsBefore();
  const int lane = threadIdx.x & 31, head = blockIdx.y * kHeads + (threadIdx.x >> 5);
  if (head >= args.heads) return;
  const int64_t row = blockIdx.x;
  const int width = args.latent + args.rope;
  const T* query = static_cast<const T*>(args.query) + (row * args.heads + head) * width;
  const int32_t* blocks = args.blocks + args.first_block[row];
  const int tokens = args.lengths[row];
  float q[kElements], sum[kElements];
#pragma unroll
  for (int e = 0; e < kElements; ++e) {
    q[e] = lane + 32 * e < width ? ToFloat(query[lane + 32 * e]) : 0.0f;
    sum[e] = 0.0f;
  }
  float maximum = -INFINITY, total = 0.0f;
  const auto latent = [&](int token) {
    return CachedRow<Cached>(args, static_cast<int64_t>(blocks[token / args.block_tokens]) * args.block_tokens +
                                       token % args.block_tokens);
  };
  for (int begin = 0; begin < tokens; begin += kChunk) {
    const int count = min(kChunk, tokens - begin);
    float low = -INFINITY, high = -INFINITY;  // scores of tokens begin + lane and begin + lane + 32
#pragma unroll 4
    for (int t = 0; t < count; ++t) {
      const CachedRow<Cached> key = latent(begin + t);
      float score = 0.0f;
#pragma unroll
      for (int e = 0; e < kElements; ++e) {
        if (lane + 32 * e < width) score = fmaf(q[e], key.At(lane + 32 * e), score);
      }
      score = WarpSum(score) * args.scale;
      if (lane == (t & 31)) (t < 32 ? low : high) = score;
    }
    float largest = fmaxf(low, high);
#pragma unroll
    for (int offset = 16; offset > 0; offset >>= 1) {
      largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, offset));
    }
    const float next = fmaxf(maximum, largest);
    const float shrink = expf(maximum - next);  // zero for the first chunk
    low = lane < count ? expf(low - next) : 0.0f;
    high = lane + 32 < count ? expf(high - next) : 0.0f;
    total = fmaf(total, shrink, WarpSum(low + high));
    maximum = next;
#pragma unroll
    for (int e = 0; e < kElements; ++e) sum[e] *= shrink;
#pragma unroll 4
    for (int t = 0; t < count; ++t) {
      const float weight = __shfl_sync(0xffffffffu, t < 32 ? low : high, t & 31);
      const CachedRow<Cached> value = latent(begin + t);
#pragma unroll
      for (int e = 0; e < kElements; ++e) {
        if (lane + 32 * e < args.latent) sum[e] = fmaf(weight, value.At(lane + 32 * e), sum[e]);
      }
    }
  }
  const int64_t out = (row * args.heads + head) * args.latent;
#pragma unroll
  for (int e = 0; e < kElements; ++e) {
    if (lane + 32 * e < args.latent) StoreAs(args.out, args.dtype, out + lane + 32 * e, sum[e] / total);
  }
}

template <typename T, typename Cached>
void Launch(const AttendArgs& args, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(args.rows), static_cast<unsigned>((args.heads + kHeads - 1) / kHeads));
  const int width = args.latent + args.rope;
  if (width <= 2 * 32) return LaunchOverlapped(AttendKernel<T, Cached, 2>, grid, kHeads * 32, 0, stream, args);
  if (width <= 6 * 32) return LaunchOverlapped(AttendKernel<T, Cached, 6>, grid, kHeads * 32, 0, stream, args);
  if (width <= 10 * 32) return LaunchOverlapped(AttendKernel<T, Cached, 10>, grid, kHeads * 32, 0, stream, args);
  if (width <= 18 * 32) return LaunchOverlapped(AttendKernel<T, Cached, 18>, grid, kHeads * 32, 0, stream, args);
  LaunchOverlapped(AttendKernel<T, Cached, 36>, grid, kHeads * 32, 0, stream, args);
}

// A page table for every row, somewhere in `blocks`.
MlaDecode OnTensorCores(const AttendArgs& args) {
  MlaDecode decode;
  decode.dtype = MlaDtype::kBf16;
  decode.packed = args.cache_dtype == DType::kF8E4M3;
  decode.query = args.query;
  decode.cache = args.cache;
  decode.page_tables = args.blocks;
  decode.table_of_row = args.first_block;
  decode.table_stride = 1;
  decode.lengths = args.lengths;
  decode.rows = static_cast<int>(args.rows);
  decode.heads = args.heads;
  decode.latent = args.latent;
  decode.rope = args.rope;
  decode.pages = args.cache_blocks;
  decode.page_tokens = args.block_tokens;
  decode.tokens_max = args.tokens_max;
  decode.scale = args.scale;
  decode.out = args.out;
  decode.workspace = args.workspace;
  return decode;
}

}  // namespace

absl::Status Attend(const AttendArgs& args, cudaStream_t stream) {
  if (args.dtype == DType::kBF16 && MlaTakesTensorCores(OnTensorCores(args))) {
    return LaunchMlaDecode(OnTensorCores(args), stream);
  }
  if (args.cache_dtype == DType::kF8E4M3) {
    if (args.dtype == DType::kBF16) {
      Launch<__nv_bfloat16, Packed>(args, stream);
    } else {
      Launch<float, Packed>(args, stream);
    }
  } else if (args.dtype == DType::kBF16) {
    Launch<__nv_bfloat16, __nv_bfloat16>(args, stream);
  } else {
    Launch<float, float>(args, stream);
  }
  return absl::OkStatus();
}

bool AttendsOnTensorCores(int latent, int rope) {
  MlaDecode decode;
  decode.latent = latent;
  decode.rope = rope;
  decode.page_tokens = kAttentionChunkTokens;
  return RunsHopperCode() && MlaTakesTensorCores(decode);
}

int64_t AttendWorkspaceBytes(int64_t rows, int heads, int latent, DType dtype, int64_t tokens_max) {
  if (dtype != DType::kBF16) return 0;
  return static_cast<int64_t>(MlaWorkspaceBytes(static_cast<int>(rows), heads, latent, static_cast<int>(tokens_max)));
}

}  // namespace conclave::cuda
