// Both grouped products of the feed-forward in one launch: blocks take tiles one after the other, those of gate+up
// first, and an expert's tiles of down wait for its activation alone. So neither the last tiles of gate+up nor the
// first of down leave multiprocessors idle. Products, orders of sums and bits are those of the two launches. A block
// only ever waits for tiles of gate+up, which wait for nothing, and which were taken before its own, by blocks that
// run: not all need to run at once.
#ifndef CONCLAVE_MOE_KERNELS_CUDA_SM90_FP8_FFN_CUH_
#define CONCLAVE_MOE_KERNELS_CUDA_SM90_FP8_FFN_CUH_

#include "moe/kernels/cuda/sm90_fp8_grouped_ffn.cuh"

namespace conclave::sm90 {

// What the copy engine reads in one product.
struct ProductMaps {
  CUtensorMap weights, rows, scales;
};
struct FfnMaps {
  ProductMaps gate_up, down;
};

struct FfnArguments {
  KernelArguments gate_up, down;
  int32_t* progress;  // [1 + experts], zeros at first: tiles taken; each expert's tiles of gate+up that are stored
};

// Numbers the tiles of gate+up and then those of down.
template <int kTokens>
class FfnDealer {
 public:
  __device__ explicit FfnDealer(const FfnArguments& arguments)
      : arguments_(arguments), dealer_(arguments.gate_up.shape) {}

  // As TileDealer's.
  __device__ bool At(int number, Tile* tile) {
    if (!down_) {
      if (dealer_.At(number, tile)) return true;
      first_down_ = dealer_.tiles();
      dealer_ = TileDealer<kTokens>(arguments_.down.shape);
      down_ = true;
    }
    return dealer_.At(number - first_down_, tile);
  }
  // Whether the last tile belongs to down.
  __device__ bool down() const { return down_; }
  // Tiles of gate+up that the last tile's expert has.
  __device__ int expert_tiles() const { return dealer_.row_tiles() * arguments_.gate_up.shape.feature_tiles; }

 private:
  const FfnArguments& arguments_;
  TileDealer<kTokens> dealer_;
  bool down_ = false;
  int first_down_ = 0;
};

__device__ __forceinline__ void HalvesOf(const FfnArguments& arguments, bool down, int feature_tile, int (&halves)[2]) {
  halves[0] = feature_tile * (down ? 2 * kHalfFeatures : kHalfFeatures);
  halves[1] = halves[0] + (down ? kHalfFeatures : arguments.gate_up.features / 2);
}

// A block's tiles on their way from the producer to the consumer warps, and to the warp that counts what they have
// stored. A place is free again once all of them have let go of it.
struct TileMail {
  static constexpr int kDepth = 4, kConsumerWarps = kConsumers / 32, kBytes = kDepth * (16 + 3 * 8);
  uint32_t tiles, full, empty, stored;  // addresses in shared memory
  int index = 0;
  uint32_t phase = 0;

  // Called by all threads. `memory` is 16-byte aligned.
  __device__ explicit TileMail(const void* memory)
      : tiles(SharedAddress(memory)), full(tiles + 16 * kDepth), empty(full + 8 * kDepth), stored(empty + 8 * kDepth) {
    if (threadIdx.x == 0) {
      for (int i = 0; i < kDepth; ++i) {
        BarrierInitAt(full + 8 * i, 1);
        BarrierInitAt(empty + 8 * i, kConsumerWarps + 1);
        BarrierInitAt(stored + 8 * i, kConsumerWarps);
      }
    }
    __syncthreads();
  }
  // By the producer.
  __device__ void Send(const Tile& tile, bool down) {
    BarrierWaitAt(empty + 8 * index, phase ^ 1);
    const int expert = down ? ~tile.expert : tile.expert;
    asm volatile("st.shared.v4.s32 [%0], {%1, %2, %3, %4};" ::"r"(tiles + 16 * index), "r"(expert),
                 "r"(tile.feature_tile), "r"(tile.row_begin), "r"(tile.rows)
                 : "memory");
    BarrierArriveHere(full + 8 * index);
    Advance();
  }
  // The next tile, by all lanes of a warp; whether there is one.
  __device__ bool Read(Tile* tile, bool* down) const {
    int expert;
    BarrierWaitAt(full + 8 * index, phase);
    asm volatile("ld.shared.v4.s32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(expert), "=r"(tile->feature_tile), "=r"(tile->row_begin), "=r"(tile->rows)
                 : "r"(tiles + 16 * index)
                 : "memory");
    *down = expert < 0;
    tile->expert = *down ? ~expert : expert;
    return tile->rows > 0;
  }
  // By all lanes of a warp that has read the tile.
  __device__ void LetGo() {
    __syncwarp();
    if (threadIdx.x % 32 == 0) BarrierArriveHere(empty + 8 * index);
    Advance();
  }

  __device__ void Advance() {
    if (++index == kDepth) {
      index = 0;
      phase ^= 1;
    }
  }
};

// Ordinary accesses to global memory that this thread has made or learned of come before later ones of the copy engine.
__device__ __forceinline__ void FenceGlobalForAsync() { asm volatile("fence.proxy.async.global;" ::: "memory"); }

__device__ __forceinline__ int AcquireCount(const int32_t* count) {
  int value;
  asm volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(value) : "l"(count) : "memory");
  return value;
}

// By one thread: takes tiles and fills the ring.
template <int kTokens>
__device__ void ProduceFfn(Ring<kTokens>& ring, TileMail& mail, const FfnMaps& maps, const FfnArguments& arguments) {
  FfnDealer<kTokens> dealer(arguments);
  Tile tile;
  int ready = -1;  // the expert whose activation is known to be there
  int number = atomicAdd(arguments.progress, 1);
  while (dealer.At(number, &tile)) {
    const bool down = dealer.down();
    mail.Send(tile, down);
    // For the next tile: its way to memory and back passes beside this one's copies.
    number = atomicAdd(arguments.progress, 1);
    const ProductMaps& of = down ? maps.down : maps.gate_up;
    const KernelArguments& product = down ? arguments.down : arguments.gate_up;
    const int k_blocks = product.shape.k_blocks;
    int half_rows[2];
    HalvesOf(arguments, down, tile.feature_tile, half_rows);
    for (int& row : half_rows) row += tile.expert * product.features;
    int asked = 0;
    if (down && tile.expert != ready) {
      ready = tile.expert;
      const int32_t* const count = arguments.progress + 1 + tile.expert;
      if (AcquireCount(count) < dealer.expert_tiles()) {
        // Weights wait for nobody.
        Ring<kTokens> ahead = ring;
#pragma unroll kProducerUnroll<kTokens>
        for (; asked < min(Ring<kTokens>::kStages, k_blocks); ++asked) {
          BarrierWait(&ahead.empty[ahead.index], ahead.phase ^ 1);
          BringWeights(ahead, of.weights, half_rows, asked);
          ahead.Advance();
        }
        while (AcquireCount(count) < dealer.expert_tiles()) __nanosleep(64);
      }
      FenceGlobalForAsync();
    }
    ProduceTile(ring, of.weights, of.rows, of.scales, tile, half_rows, k_blocks, asked);
  }
  mail.Send(Tile{}, false);
}

// By one warp: counts tiles of gate+up whose results are stored. Consumers do not wait for their stores to arrive.
// Between a store and another block's copy of it stand the arrival at `stored` and the wait here, the fences for the
// copy engine and for the whole GPU, the count and, where ProduceFfn has acquired it, that thread's own fence for the
// copy engine.
__device__ inline void CountStored(TileMail& mail, const FfnArguments& arguments) {
  Tile tile;
  bool down;
  while (mail.Read(&tile, &down) && !down) {
    BarrierWaitAt(mail.stored + 8 * mail.index, mail.phase);
    if (threadIdx.x % 32 == 0) {
      FenceGlobalForAsync();
      int32_t* const count = arguments.progress + 1 + tile.expert;
      asm volatile("fence.acq_rel.gpu;\nred.relaxed.gpu.global.add.s32 [%0], 1;" ::"l"(count) : "memory");
    }
    mail.LetGo();
  }
  for (; tile.rows > 0; mail.Read(&tile, &down)) mail.LetGo();
}

template <int kTokens>
__global__ void __launch_bounds__(kThreads, 1)
    FfnKernel(const __grid_constant__ FfnMaps maps, const __grid_constant__ FfnArguments arguments) {
  extern __shared__ uint8_t unaligned[];
  Ring<kTokens> ring;
  uint8_t* staging = MakeRing(unaligned, ring);
  TileMail mail(staging + kStagingBytes - TileMail::kBytes);
  if (threadIdx.x == kConsumers) {
    for (const ProductMaps* of : {&maps.gate_up, &maps.down}) {
      PrefetchTensorMap(&of->weights);
      PrefetchTensorMap(&of->rows);
      PrefetchTensorMap(&of->scales);
    }
  }
  conclave::cuda::FollowKernelsBefore();
  if (threadIdx.x >= kConsumers) {
    RegistersDown<56>();
    if (threadIdx.x == kConsumers) ProduceFfn(ring, mail, maps, arguments);
    if (threadIdx.x / 32 == kConsumers / 32 + 1) CountStored(mail, arguments);
  } else {
    RegistersUp<224>();
    Tile tile;
    bool down;
    float acc[2][kTokens / 2];
    while (mail.Read(&tile, &down)) {
      const KernelArguments& product = down ? arguments.down : arguments.gate_up;
      const uint32_t stored = mail.stored + 8 * mail.index;
      mail.LetGo();
      int half_features[2];
      HalvesOf(arguments, down, tile.feature_tile, half_features);
      MultiplyTile<kTokens>(ring, tile, half_features, product, acc);
      if (down) {
        StoreTile<kTokens, Epilogue::kBf16>(acc, staging, tile, half_features, arguments.down);
      } else {
        StoreTile<kTokens, Epilogue::kSwiGluQuantise>(acc, staging, tile, half_features, arguments.gate_up);
        __syncwarp();
        if (threadIdx.x % 32 == 0) BarrierArriveHere(stored);
      }
    }
  }
}

}  // namespace conclave::sm90

#endif  // CONCLAVE_MOE_KERNELS_CUDA_SM90_FP8_FFN_CUH_
