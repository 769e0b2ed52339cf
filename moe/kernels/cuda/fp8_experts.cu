#include "moe/kernels/cuda/fp8_experts.h"

#include <string>

#include "moe/kernels/cuda/device_ops.cuh"
#include "moe/kernels/cuda/grouped_experts.cuh"
#include "moe/kernels/cuda/grouped_ffn.h"
#include "moe/kernels/cuda/quantise_row.cuh"

namespace conclave::cuda {
namespace {

// Rows on their way to the kernels.
struct Quantised {
  static constexpr int kThreads = kQuantiseThreads;
  Fp8Rows out;

  __device__ QuantisedEights Read(const void* rows, int64_t row) const {
    return QuantiseRow(out.cols,
                       [&](int col, float(&eight)[8]) { LoadEight<DType::kBF16>(rows, row * out.cols + col, eight); });
  }
  __device__ void Store(const QuantisedEights& part, int64_t place) const { StoreQuantised(part, out, place); }
};

// The pieces of the workspace.
struct Workspace {
  SortedPairs sorted;
  Fp8Rows x, activation;
  void* out;  // [capacity, hidden] BF16
  int64_t bytes;
};

Workspace Layout(void* memory, int64_t pairs, const ExpertSlots& slots) {
  Workspace space;
  Pieces pieces(memory);
  space.sorted = SortedPairsIn(pieces.Take(SortedPairsBytes(pairs, slots.slots, kRowAlignment)), pairs, slots.slots,
                               kRowAlignment);
  const int64_t capacity = space.sorted.capacity;
  const auto rows = [&](int cols) {
    Fp8Rows made;
    made.data = pieces.Take(capacity * cols);
    made.scales = reinterpret_cast<float*>(pieces.Take(capacity * (cols / kScaleBlock) * int64_t{sizeof(float)}));
    made.rows_capacity = static_cast<int>(capacity);
    made.cols = cols;
    return made;
  };
  space.x = rows(slots.hidden);
  space.activation = rows(slots.intermediate);
  space.out = pieces.Take(capacity * slots.hidden * 2);
  space.bytes = pieces.bytes();
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
  SortRows(args, space.sorted, Quantised{space.x}, QuantiseBlocks(args.slots.hidden), cuda_stream);
  GroupedFfn problem;
  problem.x = space.x;
  problem.gate_up = Matrices(args.slots.gate_up, args.slots.slots);
  problem.down = Matrices(args.slots.down, args.slots.slots);
  problem.activation = space.activation;
  problem.row_begins = space.sorted.begins;
  problem.row_counts = space.sorted.counts;
  problem.rows_per_expert = static_cast<int>((args.pairs + args.slots.slots - 1) / args.slots.slots);
  problem.progress = space.sorted.progress;  // zeros by SortPairs, in every replay of a graph too
  if (absl::Status status = LaunchGroupedFfn(problem, space.out, stream); !status.ok()) return status;
  ReturnRows(args, space.sorted, space.out, cuda_stream);
  return absl::OkStatus();
}

}  // namespace conclave::cuda
