// What the experts' feed-forward through grouped kernels does around them, whatever numbers their rows are in: rows are
// brought into the order of their experts, and results taken back.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "moe/kernels/accelerator/expert_ops.h"
#include "moe/kernels/cuda/expert_sort.cuh"
#include "moe/kernels/cuda/overlap.cuh"

namespace conclave::cuda {

// Cuts a workspace into pieces, each aligned to 1,024 bytes.
class Pieces {
 public:
  explicit Pieces(void* memory) : memory_(static_cast<std::byte*>(memory)) {}
  std::byte* Take(int64_t bytes) {
    std::byte* const piece = memory_ + bytes_;
    bytes_ += (bytes + 1023) / 1024 * 1024;
    return piece;
  }
  int64_t bytes() const { return bytes_; }

 private:
  std::byte* const memory_;
  int64_t bytes_ = 0;
};

// A block of threads has one place among the sorted pairs. copy.Read(rows, row) is this thread's part of a row as the
// kernels want it, copy.Store(part, place) leaves it at a place; blockIdx.y counts blocks of threads along the row.
template <typename Copy>
__global__ void __launch_bounds__(Copy::kThreads) GatherKernel(ExpertFfnArgs args, SortedPairs sorted, Copy copy) {
  FollowKernelsBefore();
  const int64_t place = blockIdx.x;
  const int pair = sorted.order[place];
  if (pair < 0) return;
  copy.Store(copy.Read(args.rows, args.pair_rows == nullptr ? pair / args.top_k : args.pair_rows[pair]), place);
}

// A block of threads has one row, which it reads once and leaves at all its places.
template <typename Copy>
__global__ void __launch_bounds__(Copy::kThreads) SpreadKernel(ExpertFfnArgs args, const int32_t* places, Copy copy) {
  FollowKernelsBefore();
  const int64_t row = blockIdx.x;
  const auto part = copy.Read(args.rows, row);
#pragma unroll 4
  for (int k = 0; k < args.top_k; ++k) copy.Store(part, places[row * args.top_k + k]);
}

// Queues the copy of args' rows to the places of their pairs; `blocks` of threads for a row.
template <typename Copy>
void SortRows(const ExpertFfnArgs& args, const SortedPairs& sorted, const Copy& copy, unsigned blocks,
              cudaStream_t stream) {
  // With fewer pairs a block of threads for each is faster than one for each row. Bits are the same.
  constexpr int64_t kSpreadPairsMin = 512;
  if (args.pair_rows == nullptr && args.pairs >= kSpreadPairsMin) {
    LaunchOverlapped(SpreadKernel<Copy>, dim3(static_cast<unsigned>(args.pairs / args.top_k), blocks), Copy::kThreads,
                     0, stream, args, sorted.places, copy);
  } else {
    LaunchOverlapped(GatherKernel<Copy>, dim3(static_cast<unsigned>(sorted.capacity), blocks), Copy::kThreads, 0,
                     stream, args, sorted, copy);
  }
}

// Queues what becomes of the experts' sorted rows, [capacity, hidden] BF16: they are combined as args says, or go to
// args.out in the order of the pairs. REQUIRES: hidden is a multiple of 8.
void ReturnRows(const ExpertFfnArgs& args, const SortedPairs& sorted, const void* rows, cudaStream_t stream);

}  // namespace conclave::cuda
