#include "moe/kernels/cuda/bf16_experts.h"

#include <cuda_runtime.h>

#include "moe/kernels/cuda/grouped_experts.cuh"
#include "moe/kernels/cuda/grouped_ffn.h"
#include "moe/kernels/cuda/hopper_code.h"

namespace conclave::cuda {
namespace {

// Rows on their way to the kernels, 16 bytes a thread.
struct Copied {
  static constexpr int kThreads = 256;
  uint4* out;   // [capacity, chunks]
  int chunks;   // of a row

  __device__ int Chunk() const { return static_cast<int>(blockIdx.y * kThreads + threadIdx.x); }
  __device__ uint4 Read(const void* rows, int64_t row) const {
    return Chunk() < chunks ? static_cast<const uint4*>(rows)[row * chunks + Chunk()] : make_uint4(0, 0, 0, 0);
  }
  __device__ void Store(const uint4& part, int64_t place) const {
    if (Chunk() < chunks) out[place * chunks + Chunk()] = part;
  }
};

// The pieces of the workspace.
struct Workspace {
  SortedPairs sorted;
  void *x, *activation, *out;  // [capacity, hidden], [capacity, intermediate], [capacity, hidden] BF16
  int64_t bytes;
};

Workspace Layout(void* memory, int64_t pairs, const ExpertSlots& slots) {
  Workspace space;
  Pieces pieces(memory);
  space.sorted = SortedPairsIn(pieces.Take(SortedPairsBytes(pairs, slots.slots, 1)), pairs, slots.slots, 1);
  space.x = pieces.Take(space.sorted.capacity * slots.hidden * 2);
  space.activation = pieces.Take(space.sorted.capacity * slots.intermediate * 2);
  space.out = pieces.Take(space.sorted.capacity * slots.hidden * 2);
  space.bytes = pieces.bytes();
  return space;
}

Bf16Experts Matrices(const DeviceWeight& weight, int slots) {
  return {weight.data, slots, static_cast<int>(weight.rows * weight.matrices / slots), static_cast<int>(weight.cols)};
}

}  // namespace

bool TakesBf16Experts(const ExpertSlots& slots) {
  return slots.gate_up.dtype == DType::kBF16 && slots.down.dtype == DType::kBF16 && slots.hidden % 256 == 0 &&
         slots.intermediate % 128 == 0 && RunsHopperCode();
}

int64_t Bf16ExpertBytes(int64_t pairs, const ExpertSlots& slots) { return Layout(nullptr, pairs, slots).bytes; }

absl::Status RunBf16Experts(const ExpertFfnArgs& args, void* stream) {
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  const Workspace space = Layout(args.workspace, args.pairs, args.slots);
  const int capacity = static_cast<int>(space.sorted.capacity), chunks = args.slots.hidden / 8;
  SortPairs(args, space.sorted, 1, cuda_stream);
  SortRows(args, space.sorted, Copied{static_cast<uint4*>(space.x), chunks},
           static_cast<unsigned>((chunks + Copied::kThreads - 1) / Copied::kThreads), cuda_stream);
  Bf16GroupedGemm problem;
  problem.x = {space.x, capacity, args.slots.hidden};
  problem.w = Matrices(args.slots.gate_up, args.slots.slots);
  problem.row_begins = space.sorted.begins;
  problem.row_counts = space.sorted.counts;
  // Twice the mean: an expert whose rows fill more than one tile has its weights read again.
  problem.rows_per_expert = static_cast<int>((2 * args.pairs + args.slots.slots - 1) / args.slots.slots);
  if (absl::Status status = LaunchBf16GroupedGateUp(problem, space.activation, stream); !status.ok()) return status;
  problem.x = {space.activation, capacity, args.slots.intermediate};
  problem.w = Matrices(args.slots.down, args.slots.slots);
  problem.follows_grouped = true;
  if (absl::Status status = LaunchBf16GroupedGemm(problem, space.out, stream); !status.ok()) return status;
  ReturnRows(args, space.sorted, space.out, cuda_stream);
  return absl::OkStatus();
}

}  // namespace conclave::cuda
