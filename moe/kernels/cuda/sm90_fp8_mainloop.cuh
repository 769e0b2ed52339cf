// The main loop that both grouped products share: 256 output features x kTokens rows a tile, a producer warp that feeds
// a ring of shared-memory stages through the tensor copy engine, and two warpgroups that multiply.
#ifndef CONCLAVE_MOE_KERNELS_CUDA_SM90_FP8_MAINLOOP_CUH_
#define CONCLAVE_MOE_KERNELS_CUDA_SM90_FP8_MAINLOOP_CUH_

#include <cuda_bf16.h>
#include <cuda_fp8.h>

#include "moe/kernels/cuda/sm90_ptx.cuh"
#include "moe/kernels/cuda/sm90_wgmma.cuh"

namespace conclave::sm90 {

inline constexpr int kBlockK = 128;         // one scale block along K, one swizzled row of 128 bytes
inline constexpr int kHalfFeatures = 128;   // a tile has two halves of features, each under one row of weight scales
inline constexpr int kConsumers = 256;      // two warpgroups; each takes 64 features of both halves
inline constexpr int kThreads = kConsumers + 128;

// Shared memory of one stage: both halves of the weights, the rows, and the rows' scales.
template <int kTokens>
struct Stage {
  static constexpr int kWeightBytes = 2 * kHalfFeatures * kBlockK;
  static constexpr int kRowBytes = kTokens * kBlockK;
  static constexpr int kScaleBytes = kTokens * 4;
  static constexpr int kScalePitch = kTokens < 32 ? 32 : kTokens;  // floats: the copy engine writes to 128-byte lines
  static constexpr int kBytes = kWeightBytes + kRowBytes + kScaleBytes;  // what one barrier waits for
  static constexpr int kStride = kWeightBytes + kRowBytes;               // scales lie behind all stages
};

inline constexpr int kSharedBytesMax = 227 * 1024;  // what one block may have on sm_90
inline constexpr int kStagingBytes = 14 * 1024;     // the epilogue's

// As many stages as fit beside the epilogue's staging, the barriers, and what aligning to 1024 bytes may lose.
template <int kTokens>
constexpr int StageCount() {
  constexpr int kEach = Stage<kTokens>::kStride + 4 * Stage<kTokens>::kScalePitch + 16;
  return (kSharedBytesMax - 1024 - 128 - kStagingBytes) / kEach;
}

// What every thread of the kernel knows of the problem.
struct TileShape {
  const int32_t* row_begins;   // [experts]
  const int32_t* row_counts;   // [experts]
  int experts;
  int feature_tiles;           // tiles along the output features
  int k_blocks;
};

enum class Epilogue { kBf16, kSwiGluQuantise };

// Everything a launch passes by value.
struct KernelArguments {
  TileShape shape;
  const float* weight_scales;  // [experts, features / 128, k_blocks]
  int features;                // rows of one expert's matrix
  void* out;                   // kBf16: [rows, features] bf16; kSwiGluQuantise: [rows, features / 2] e4m3
  float* out_scales;           // kSwiGluQuantise: [features / 256, out_scale_stride]
  int out_scale_stride;
  bool early_weights;          // of bfloat16: the counts of rows are there before the kernel before has ended
};

// silu(gate) · up. An approximate reciprocal instead of a division, whose branch for rare operands would keep the
// products of a tile from running beside each other; its error is that of a rounding.
__device__ __forceinline__ float SwiGlu(float gate, float up) {
  constexpr float kLog2E = 1.44269504f;
  float power, inverse;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(-kLog2E * gate));
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(1.0f + power));
  return gate * inverse * up;
}

// Two values as e4m3, the first in the low byte.
__device__ __forceinline__ uint32_t QuantisePair(float low, float high) {
  return __nv_cvt_float2_to_fp8x2(make_float2(low, high), __NV_SATFINITE, __NV_E4M3);
}

// One tile: which expert, which features, which rows.
struct Tile {
  int expert;
  int feature_tile;
  int row_begin;
  int rows;  // 1 to kTokens
};

// A tile's place in a matrix product. Features run before rows, but within bands of rows, so that blocks that run
// together share weights and rows in L2.
struct TilePlace {
  int row_tile, feature_tile;
};
inline constexpr int kBandTiles = 16;
__device__ __forceinline__ TilePlace PlaceOf(int number, int row_tiles, int feature_tiles) {
  const int band = number / (kBandTiles * feature_tiles);
  const int rows = min(kBandTiles, row_tiles - band * kBandTiles), in_band = number - band * kBandTiles * feature_tiles;
  return {band * kBandTiles + in_band % rows, in_band / rows};
}

// Numbers tiles: experts ascending, then as PlaceOf has it.
template <int kTokens>
class TileDealer {
 public:
  __device__ TileDealer(const TileShape& shape) : shape_(&shape), next_(blockIdx.x) { LoadExpert(); }

  // The tile of this number, which is no smaller than the one before; false where there are not so many.
  __device__ bool At(int number, Tile* tile) {
    while (number >= first_ + tiles_) {
      first_ += tiles_;
      if (++expert_ >= shape_->experts) return false;
      LoadExpert();
    }
    const TilePlace place = PlaceOf(number - first_, row_tiles_, shape_->feature_tiles);
    const int row = place.row_tile * kTokens;
    *tile = Tile{expert_, place.feature_tile, begin_ + row, min(kTokens, end_ - begin_ - row)};
    return true;
  }
  // The next of this block's tiles, where tiles are dealt to blocks in turn.
  __device__ bool Next(Tile* tile) {
    if (!At(next_, tile)) return false;
    next_ += gridDim.x;
    return true;
  }
  // Row tiles of the last tile's expert.
  __device__ int row_tiles() const { return row_tiles_; }
  // How many tiles there are, once At has said that there are no more.
  __device__ int tiles() const { return first_; }

 private:
  __device__ void LoadExpert() {
    begin_ = __ldg(shape_->row_begins + expert_);
    end_ = begin_ + __ldg(shape_->row_counts + expert_);
    row_tiles_ = (end_ - begin_ + kTokens - 1) / kTokens;
    tiles_ = row_tiles_ * shape_->feature_tiles;
  }

  const TileShape* shape_;
  int next_;
  int expert_ = 0;
  int first_ = 0;  // the number of the first tile of this expert
  int begin_, end_, row_tiles_, tiles_;
};

// The ring of stages in shared memory and where this thread stands in it.
template <int kTokens>
struct Ring {
  static constexpr int kStages = StageCount<kTokens>();
  uint8_t* stages;   // [kStages][kStride], 1024-byte aligned
  float* scales;     // [kStages][kScalePitch]
  uint64_t* full;    // [kStages]
  uint64_t* empty;   // [kStages]
  int index = 0;
  uint32_t phase = 0;

  __device__ void Advance() {
    if (++index == kStages) {
      index = 0;
      phase ^= 1;
    }
  }
  __device__ uint8_t* weights() const { return stages + index * Stage<kTokens>::kStride; }
  __device__ uint8_t* rows() const { return weights() + Stage<kTokens>::kWeightBytes; }
  __device__ float* row_scales() const { return scales + index * Stage<kTokens>::kScalePitch; }
};

// Lays the ring out in a block's shared memory: stages, then row scales (128-byte aligned for the copy engine), the
// epilogue's staging, which is returned, and barriers. Called by all threads.
template <int kTokens>
__device__ inline uint8_t* MakeRing(uint8_t* unaligned, Ring<kTokens>& ring) {
  constexpr int kStages = Ring<kTokens>::kStages;
  uint8_t* shared = reinterpret_cast<uint8_t*>((reinterpret_cast<uintptr_t>(unaligned) + 1023) / 1024 * 1024);
  ring.stages = shared;
  uint8_t* behind = shared + kStages * Stage<kTokens>::kStride;
  ring.scales = reinterpret_cast<float*>(behind);
  uint8_t* staging = behind + kStages * Stage<kTokens>::kScalePitch * 4;
  ring.full = reinterpret_cast<uint64_t*>(staging + kStagingBytes);
  ring.empty = ring.full + kStages;
  if (threadIdx.x == 0) {
    for (int i = 0; i < kStages; ++i) {
      BarrierInit(&ring.full[i], 1);
      BarrierInit(&ring.empty[i], kConsumers / 32);
    }
    FenceBarrierInit();
  }
  __syncthreads();
  return staging;
}

// Asks for the weights of one stage. `half_rows` are the first rows of the tile's two halves in the stacked weights
// [experts * features, K].
template <int kTokens>
__device__ __forceinline__ void BringWeights(const Ring<kTokens>& ring, const CUtensorMap& weights,
                                             const int (&half_rows)[2], int block) {
  // Not kEvictFirst, even where one row tile uses the weights up: on an H100 they would stream 4% slower.
  uint64_t* full = &ring.full[ring.index];
  BarrierArriveExpect(full, Stage<kTokens>::kBytes);
  CopyTensor2d(&weights, full, ring.weights(), block * kBlockK, half_rows[0], kEvictNormal);
  CopyTensor2d(&weights, full, ring.weights() + kHalfFeatures * kBlockK, block * kBlockK, half_rows[1], kEvictNormal);
}

// How often a producer's loops are unrolled. Where products bound the time, code four times as long beside theirs costs
// 1 to 2% of it; few rows, where weights do, begin sooner with it.
template <int kTokens>
inline constexpr int kProducerUnroll = kTokens < 128 ? 4 : 1;

// Fills the ring with one tile. Called by one thread. The weights of `asked` stages are on their way already.
template <int kTokens>
__device__ void ProduceTile(Ring<kTokens>& ring, const CUtensorMap& weights, const CUtensorMap& rows,
                            const CUtensorMap& scales, const Tile& tile, const int (&half_rows)[2], int k_blocks,
                            int& asked) {
#pragma unroll kProducerUnroll<kTokens>
  for (int block = 0; block < k_blocks; ++block) {
    if (asked > 0) {
      --asked;
    } else {
      BarrierWait(&ring.empty[ring.index], ring.phase ^ 1);
      BringWeights(ring, weights, half_rows, block);
    }
    uint64_t* full = &ring.full[ring.index];
    CopyTensor2d(&rows, full, ring.rows(), block * kBlockK, tile.row_begin, kEvictLast);
    CopyTensor2d(&scales, full, ring.row_scales(), tile.row_begin, block, kEvictLast);
    ring.Advance();
  }
}

// Multiplies one tile. acc[h] holds this thread's part of D[64 features, kTokens] of half h (layout: WgmmaE4M3).
// weight_scales[h] points at the half's row of k_blocks scales.
template <int kTokens>
__device__ void ConsumeTile(Ring<kTokens>& ring, const float* const (&weight_scales)[2], int k_blocks,
                            float (&acc)[2][kTokens / 2]) {
  const int warpgroup = threadIdx.x / 128;
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int i = 0; i < kTokens / 2; ++i) acc[0][i] = acc[1][i] = 0.0f;
  float next_scales[2] = {__ldg(weight_scales[0]), __ldg(weight_scales[1])};
  for (int block = 0; block < k_blocks; ++block) {
    const float scale_of_half[2] = {next_scales[0], next_scales[1]};
    if (block + 1 < k_blocks) {
      next_scales[0] = __ldg(weight_scales[0] + block + 1);
      next_scales[1] = __ldg(weight_scales[1] + block + 1);
    }
    BarrierWait(&ring.full[ring.index], ring.phase);
    const uint64_t b = OperandDescriptor(ring.rows());
    const float* row_scales = ring.row_scales() + 2 * (lane % 4);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const uint64_t a = OperandDescriptor(ring.weights() + (half * kHalfFeatures + warpgroup * 64) * kBlockK);
      float partial[kTokens / 2];
#pragma unroll
      for (int i = 0; i < kTokens / 2; ++i) WgmmaTouch(partial[i]);
      WgmmaFence();
#pragma unroll
      for (int step = 0; step < kBlockK / 32; ++step) {
        WgmmaE4M3<kTokens>::Run(partial, a + 2 * step, b + 2 * step, step > 0);
      }
      WgmmaCommit();
#pragma unroll
      for (int i = 0; i < kTokens / 2; ++i) WgmmaTouch(partial[i]);
      WgmmaWait<0>();
#pragma unroll
      for (int j = 0; j < kTokens / 8; ++j) {
        const float2 of_rows = *reinterpret_cast<const float2*>(row_scales + 8 * j);
        const float s0 = scale_of_half[half] * of_rows.x;
        const float s1 = scale_of_half[half] * of_rows.y;
        acc[half][4 * j + 0] = __fmaf_rn(partial[4 * j + 0], s0, acc[half][4 * j + 0]);
        acc[half][4 * j + 1] = __fmaf_rn(partial[4 * j + 1], s1, acc[half][4 * j + 1]);
        acc[half][4 * j + 2] = __fmaf_rn(partial[4 * j + 2], s0, acc[half][4 * j + 2]);
        acc[half][4 * j + 3] = __fmaf_rn(partial[4 * j + 3], s1, acc[half][4 * j + 3]);
      }
    }
    // All 32 lanes have read the stage's scales; one arrival a warp frees it.
    __syncwarp();
    if (lane == 0) BarrierArrive(&ring.empty[ring.index]);
    ring.Advance();
  }
}

}  // namespace conclave::sm90

#endif  // CONCLAVE_MOE_KERNELS_CUDA_SM90_FP8_MAINLOOP_CUH_
