#include "moe/kernels/cuda/grouped_experts.cuh"

namespace conclave::cuda {
namespace {

constexpr int kCombineThreads = 128;

// Sorted rows of bfloat16 back to the order of the pairs, 16 bytes a thread.
__global__ void ScatterKernel(ExpertFfnArgs args, SortedPairs sorted, const uint4* rows) {
  FollowKernelsBefore();
  const int pair = sorted.order[blockIdx.x];
  if (pair < 0) return;
  const int chunks = args.slots.hidden / 8;
  for (int i = threadIdx.x; i < chunks; i += blockDim.x) {
    static_cast<uint4*>(args.out)[int64_t{pair} * chunks + i] = rows[int64_t{blockIdx.x} * chunks + i];
  }
}

// CombineKernel over sorted rows: eight columns a thread.
__global__ void __launch_bounds__(kCombineThreads)
    CombineSortedKernel(CombineArgs args, const int32_t* places, const uint4* rows) {
  FollowKernelsBefore();
  const int chunks = static_cast<int>(args.cols / 8), chunk = blockIdx.y * kCombineThreads + threadIdx.x;
  if (chunk >= chunks) return;
  const int64_t row = blockIdx.x;
  auto* acc = reinterpret_cast<float4*>(args.acc + row * args.cols) + 2 * chunk;
  const float4 zero = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
  float4 low = args.from_zero ? zero : acc[0], high = args.from_zero ? zero : acc[1];
#pragma unroll 8
  for (int k = 0; k < args.top_k; ++k) {
    const int64_t pair = row * args.top_k + k;
    const uint4 eight = rows[int64_t{places[pair]} * chunks + chunk];
    const float weight = args.weights[pair];
    const auto add = [weight](float& sum, uint32_t bits) { sum = fmaf(weight, __uint_as_float(bits), sum); };
    add(low.x, eight.x << 16);
    add(low.y, eight.x & 0xffff0000u);
    add(low.z, eight.y << 16);
    add(low.w, eight.y & 0xffff0000u);
    add(high.x, eight.z << 16);
    add(high.y, eight.z & 0xffff0000u);
    add(high.z, eight.w << 16);
    add(high.w, eight.w & 0xffff0000u);
  }
  acc[0] = low;
  acc[1] = high;
}

}  // namespace

void ReturnRows(const ExpertFfnArgs& args, const SortedPairs& sorted, const void* rows, cudaStream_t stream) {
  const auto* const eights = static_cast<const uint4*>(rows);
  if (!args.combined) {
    LaunchOverlapped(ScatterKernel, dim3(static_cast<unsigned>(sorted.capacity)), 128, 0, stream, args, sorted, eights);
    return;
  }
  const int64_t chunks = args.slots.hidden / 8;
  LaunchOverlapped(CombineSortedKernel,
                   dim3(static_cast<unsigned>(args.combine.rows),
                        static_cast<unsigned>((chunks + kCombineThreads - 1) / kCombineThreads)),
                   kCombineThreads, 0, stream, args.combine, sorted.places, eights);
}

}  // namespace conclave::cuda
