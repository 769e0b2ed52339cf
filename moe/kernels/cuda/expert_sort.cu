#include "moe/kernels/cuda/expert_sort.cuh"
#include "moe/kernels/cuda/overlap.cuh"

namespace conclave::cuda {
namespace {

constexpr int kThreads = 1024;

int64_t Rounded(int64_t count) { return (count + 63) / 64 * 64; }

// One warp: where each slot's pairs and tiles begin, 32 slots at a time.
__device__ void PlaceSlots(const SortedPairs& sorted, const int32_t* counts, int32_t* begins, int slots,
                           int alignment) {
  const int lane = threadIdx.x;
  int begin = 0, tile = 0;  // of the first of these 32
  for (int base = 0; base < slots; base += 32) {
    const int slot = base + lane, count = slot < slots ? counts[slot] : 0;
    const int places = (count + alignment - 1) / alignment * alignment;
    const int tiles = (count + kExpertTileRows - 1) / kExpertTileRows;
    int places_so_far = places, tiles_so_far = tiles;
#pragma unroll
    for (int offset = 1; offset < 32; offset *= 2) {
      const int p = __shfl_up_sync(0xffffffffu, places_so_far, offset),
                t = __shfl_up_sync(0xffffffffu, tiles_so_far, offset);
      if (lane >= offset) {
        places_so_far += p;
        tiles_so_far += t;
      }
    }
    if (slot < slots) begins[slot] = begin + places_so_far - places;
    for (int i = 0; i < tiles; ++i) {
      const int number = tile + tiles_so_far - tiles + i;
      sorted.tile_slot[number] = slot;
      sorted.tile_begin[number] = begins[slot] + i * kExpertTileRows;
    }
    begin += __shfl_sync(0xffffffffu, places_so_far, 31);
    tile += __shfl_sync(0xffffffffu, tiles_so_far, 31);
  }
}

// store(pair, number(pair, slot)) of all pairs, so many of a thread's at once that their latencies pass side by side.
template <typename Number, typename Store>
__device__ __forceinline__ void ForEachPair(const ExpertFfnArgs& args, Number number, Store store) {
  constexpr int kAtOnce = 8;
  int64_t pair = threadIdx.x;
  for (; pair + (kAtOnce - 1) * kThreads < args.pairs; pair += kAtOnce * kThreads) {
    int32_t numbers[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) numbers[i] = __ldg(args.pair_experts + pair + i * kThreads);
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) numbers[i] = __ldg(args.slot_of + numbers[i]);
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) numbers[i] = number(pair + i * kThreads, numbers[i]);
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) store(pair + i * kThreads, numbers[i]);
  }
  for (; pair < args.pairs; pair += kThreads) store(pair, number(pair, args.slot_of[args.pair_experts[pair]]));
}

// One block. Pass 1 counts and numbers a slot's pairs, pass 2 gives every slot its begin and its tiles, pass 3 places
// the pairs. Where a pair lands among its expert's others depends on timing and changes no bit: rows are computed
// alone. Shared memory: counts, begins [slots] each.
__global__ void __launch_bounds__(kThreads) SortKernel(ExpertFfnArgs args, SortedPairs sorted, int alignment) {
  FollowKernelsBefore();
  extern __shared__ int32_t shared[];
  const int slots = args.slots.slots;
  int32_t *counts = shared, *begins = shared + slots;
  for (int slot = threadIdx.x; slot < slots; slot += kThreads) counts[slot] = 0;
  for (int64_t i = threadIdx.x; i < sorted.capacity; i += kThreads) sorted.order[i] = -1;
  for (int64_t i = threadIdx.x; i < sorted.tiles_max; i += kThreads) sorted.tile_slot[i] = -1;
  for (int i = threadIdx.x; i <= slots; i += kThreads) sorted.progress[i] = 0;
  __syncthreads();
  ForEachPair(args, [&](int64_t, int32_t slot) { return atomicAdd(&counts[slot], 1); },
              [&](int64_t pair, int32_t number) { sorted.places[pair] = number; });
  __syncthreads();
  if (threadIdx.x < 32) PlaceSlots(sorted, counts, begins, slots, alignment);
  __syncthreads();
  for (int slot = threadIdx.x; slot < slots; slot += kThreads) {
    sorted.begins[slot] = begins[slot];
    sorted.counts[slot] = counts[slot];
  }
  __syncthreads();
  ForEachPair(args, [&](int64_t pair, int32_t slot) { return begins[slot] + sorted.places[pair]; },
              [&](int64_t pair, int32_t place) {
                sorted.order[place] = static_cast<int32_t>(pair);
                sorted.places[pair] = place;
              });
}

int64_t TilesMax(int64_t pairs, int slots) { return pairs / kExpertTileRows + (pairs < slots ? pairs : slots) + 1; }

}  // namespace

int64_t SortedPairsBytes(int64_t pairs, int slots, int alignment) {
  const int64_t integers = 2 * Rounded(slots) + Rounded(SortedCapacity(pairs, slots, alignment)) + Rounded(pairs) +
                           2 * Rounded(TilesMax(pairs, slots)) + Rounded(1 + slots);
  return integers * static_cast<int64_t>(sizeof(int32_t));
}

SortedPairs SortedPairsIn(void* memory, int64_t pairs, int slots, int alignment) {
  SortedPairs sorted;
  sorted.capacity = SortedCapacity(pairs, slots, alignment);
  sorted.tiles_max = TilesMax(pairs, slots);
  sorted.begins = static_cast<int32_t*>(memory);
  sorted.counts = sorted.begins + Rounded(slots);
  sorted.order = sorted.counts + Rounded(slots);
  sorted.places = sorted.order + Rounded(sorted.capacity);
  sorted.tile_slot = sorted.places + Rounded(pairs);
  sorted.tile_begin = sorted.tile_slot + Rounded(sorted.tiles_max);
  sorted.progress = sorted.tile_begin + Rounded(sorted.tiles_max);
  return sorted;
}

void SortPairs(const ExpertFfnArgs& args, const SortedPairs& sorted, int alignment, cudaStream_t stream) {
  const int bytes = 2 * args.slots.slots * static_cast<int>(sizeof(int32_t));
  if (bytes > 48 * 1024) cudaFuncSetAttribute(SortKernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  LaunchOverlapped(SortKernel, dim3(1), kThreads, bytes, stream, args, sorted, alignment);
}

}  // namespace conclave::cuda
