#include "moe/kernels/cuda/fp8_experts.h"

#include <string>

#include "moe/kernels/cuda/device_ops.cuh"
#include "moe/kernels/cuda/overlap.cuh"
#include "moe/kernels/cuda/expert_sort.cuh"
#include "moe/kernels/cuda/grouped_ffn.h"
#include "moe/kernels/cuda/quantise_row.cuh"

namespace conclave::cuda {
namespace {

constexpr int kCombineThreads = 128;
// With fewer pairs a block of threads for each is faster than one for each row. Bits are the same.
constexpr int64_t kSpreadPairsMin = 512;

int64_t Rounded(int64_t bytes) { return (bytes + 1023) / 1024 * 1024; }

// A block of threads has one place among the sorted pairs.
__global__ void __launch_bounds__(kQuantiseThreads) GatherQuantiseKernel(ExpertFfnArgs args, SortedPairs sorted, Fp8Rows out) {
  FollowKernelsBefore();
  const int64_t place = blockIdx.x;
  const int pair = sorted.order[place];
  if (pair < 0) return;
  const int64_t row = args.pair_rows == nullptr ? pair / args.top_k : args.pair_rows[pair];
  StoreQuantised(QuantiseRow(out.cols, [&](int col, float(&eight)[8]) { LoadEight<DType::kBF16>(args.rows, row * out.cols + col, eight); }),
                 out, place);
}

// A block of threads has one row, which it reads once and leaves at all its places.
__global__ void __launch_bounds__(kQuantiseThreads) QuantiseSpreadKernel(ExpertFfnArgs args, const int32_t* places, Fp8Rows out) {
  FollowKernelsBefore();
  const int64_t row = blockIdx.x;
  const QuantisedEights quantised =
      QuantiseRow(out.cols, [&](int col, float(&eight)[8]) { LoadEight<DType::kBF16>(args.rows, row * out.cols + col, eight); });
#pragma unroll 4
  for (int k = 0; k < args.top_k; ++k) StoreQuantised(quantised, out, places[row * args.top_k + k]);
}

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
__global__ void __launch_bounds__(kCombineThreads) CombineSortedKernel(CombineArgs args, const int32_t* places, const uint4* rows) {
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

// The pieces of the workspace.
struct Workspace {
  SortedPairs sorted;
  Fp8Rows x, activation;
  void* out;  // [capacity, hidden] BF16
  int64_t bytes;
};

Workspace Layout(void* memory, int64_t pairs, const ExpertSlots& slots) {
  Workspace space;
  auto* base = static_cast<std::byte*>(memory);
  int64_t offset = 0;
  const auto take = [&](int64_t bytes) {
    std::byte* const piece = base + offset;
    offset += Rounded(bytes);
    return piece;
  };
  space.sorted = SortedPairsIn(take(SortedPairsBytes(pairs, slots.slots, kRowAlignment)), pairs, slots.slots,
                               kRowAlignment);
  const int64_t capacity = space.sorted.capacity;
  const auto rows = [&](int cols) {
    Fp8Rows made;
    made.data = take(capacity * cols);
    made.scales = reinterpret_cast<float*>(take(capacity * (cols / kScaleBlock) * int64_t{sizeof(float)}));
    made.rows_capacity = static_cast<int>(capacity);
    made.cols = cols;
    return made;
  };
  space.x = rows(slots.hidden);
  space.activation = rows(slots.intermediate);
  space.out = take(capacity * slots.hidden * 2);
  space.bytes = offset;
  return space;
}

Fp8Experts Matrices(const DeviceWeight& weight, int slots) {
  Fp8Experts experts;
  experts.data = weight.data;
  experts.scales = weight.scales;
  experts.experts = slots;
  experts.rows = static_cast<int>(weight.rows * weight.matrices / slots);
  experts.cols = static_cast<int>(weight.cols);
  return experts;
}

}  // namespace

absl::Status SupportsFp8Experts(const ExpertSlots& slots) {
  const auto refuse = [](const std::string& why) {
    return absl::InvalidArgumentError("--compute fp8: " + why + "; use --compute bf16");
  };
  if (slots.gate_up.dtype != DType::kF8E4M3 || slots.down.dtype != DType::kF8E4M3) {
    return refuse("the experts' weights are not stored as F8_E4M3");
  }
  if (slots.gate_up.block_rows != kScaleBlock || slots.gate_up.block_cols != kScaleBlock ||
      slots.down.block_rows != kScaleBlock || slots.down.block_cols != kScaleBlock) {
    return refuse("the experts' scale blocks are not 128 x 128");
  }
  if (slots.hidden % 256 != 0) return refuse("hidden size " + std::to_string(slots.hidden) + " is no multiple of 256");
  if (slots.intermediate % kScaleBlock != 0) {
    return refuse("the experts' intermediate size " + std::to_string(slots.intermediate) + " is no multiple of 128");
  }
  return absl::OkStatus();
}

int64_t Fp8ExpertBytes(int64_t pairs, const ExpertSlots& slots) { return Layout(nullptr, pairs, slots).bytes; }

absl::Status RunFp8Experts(const ExpertFfnArgs& args, void* stream) {
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  const Workspace space = Layout(args.workspace, args.pairs, args.slots);
  SortPairs(args, space.sorted, kRowAlignment, cuda_stream);
  const unsigned places = static_cast<unsigned>(space.sorted.capacity), blocks = QuantiseBlocks(args.slots.hidden);
  if (args.pair_rows == nullptr && args.pairs >= kSpreadPairsMin) {
    LaunchOverlapped(QuantiseSpreadKernel, dim3(static_cast<unsigned>(args.pairs / args.top_k), blocks), kQuantiseThreads, 0,
                     cuda_stream, args, space.sorted.places, space.x);
  } else {
    LaunchOverlapped(GatherQuantiseKernel, dim3(places, blocks), kQuantiseThreads, 0, cuda_stream, args, space.sorted, space.x);
  }
  GroupedGemm problem;
  problem.x = space.x;
  problem.w = Matrices(args.slots.gate_up, args.slots.slots);
  problem.row_begins = space.sorted.begins;
  problem.row_counts = space.sorted.counts;
  problem.rows_per_expert = static_cast<int>((args.pairs + args.slots.slots - 1) / args.slots.slots);
  if (absl::Status status = LaunchGroupedGateUp(problem, space.activation, stream); !status.ok()) return status;
  problem.x = space.activation;
  problem.w = Matrices(args.slots.down, args.slots.slots);
  problem.follows_grouped = true;
  if (absl::Status status = LaunchGroupedGemm(problem, space.out, stream); !status.ok()) return status;
  if (args.combined) {
    const int64_t chunks = args.slots.hidden / 8;
    LaunchOverlapped(CombineSortedKernel,
                     dim3(static_cast<unsigned>(args.combine.rows),
                          static_cast<unsigned>((chunks + kCombineThreads - 1) / kCombineThreads)),
                     kCombineThreads, 0, cuda_stream, args.combine, space.sorted.places,
                     static_cast<const uint4*>(space.out));
    return absl::OkStatus();
  }
  LaunchOverlapped(ScatterKernel, dim3(places), 128, 0, cuda_stream, args, space.sorted, static_cast<const uint4*>(space.out));
  return absl::OkStatus();
}

}  // namespace conclave::cuda
