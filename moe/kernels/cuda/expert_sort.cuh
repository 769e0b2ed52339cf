// Pairs of rows and experts in the order of the experts' slots, made on the device: the host never learns how many rows
// an expert has.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "moe/kernels/accelerator/expert_ops.h"

namespace conclave::cuda {

// Rows of a tile of the plain kernels.
inline constexpr int kExpertTileRows = 8;

// In an expert call's workspace. A slot's pairs are order[begins[s]] … order[begins[s] + counts[s] - 1], ascending
// where the sort is stable; begins are multiples of `alignment`.
struct SortedPairs {
  int32_t* begins;      // [slots]
  int32_t* counts;      // [slots]
  int32_t* order;       // [capacity] pairs; gaps hold -1
  int32_t* places;      // [pairs]: order[places[p]] is p
  int32_t* tile_slot;   // [tiles_max] of each tile of kExpertTileRows rows; -1: none
  int32_t* tile_begin;  // [tiles_max] its first place in order
  int32_t* progress;    // [1 + slots] zeros, for the kernel after to count in
  int64_t capacity;
  int64_t tiles_max;
};

inline int64_t SortedCapacity(int64_t pairs, int slots, int alignment) {
  return (pairs + int64_t{slots} * (alignment - 1) + alignment - 1) / alignment * alignment;
}

// Bytes of the arrays, and the arrays inside `memory`.
int64_t SortedPairsBytes(int64_t pairs, int slots, int alignment);
SortedPairs SortedPairsIn(void* memory, int64_t pairs, int slots, int alignment);

// Queues the sort of args' pairs.
void SortPairs(const ExpertFfnArgs& args, const SortedPairs& sorted, int alignment, cudaStream_t stream);

}  // namespace conclave::cuda
