// The warps that feed MLA decode on Hopper from a cache in eight bits (moe/tensor/latent_row.h): see
// sm90_bf16_mla_decode.cuh.
//
// The tensor cores take bfloat16, which holds a code times its power of two exactly. Eight warps read codes from
// memory, widen them in registers and write them where the copy engine would have put them; rotated keys, which are
// bfloat16, it brings itself. A warp has eight rows of every block and takes half of their columns at a time, in the
// order in which the consumers free them: what is next waits in registers, so that it is in place soon after there is
// room for it.
#ifndef CONCLAVE_MOE_KERNELS_CUDA_SM90_FP8_MLA_PRODUCER_CUH_
#define CONCLAVE_MOE_KERNELS_CUDA_SM90_FP8_MLA_PRODUCER_CUH_

#include "moe/kernels/cuda/sm90_bf16_mla_stages.cuh"
#include "moe/tensor/latent_row.h"

namespace conclave::sm90::mla {

inline constexpr LatentRowLayout kPackedRow = {.latent = kLatent, .rope = kRope};
inline constexpr int kPackedBytes = static_cast<int>(kPackedRow.bytes());
inline constexpr int kScalesAt = static_cast<int>(kPackedRow.scales_at()),
                     kKeysAt = static_cast<int>(kPackedRow.rope_at());
static_assert(kPackedBytes % 16 == 0 && kKeysAt % 16 == 0 && kPackedRow.scales() == 4);
inline constexpr int kProducerWarps = 8;
inline constexpr int kWarpRows = kBlockTokens / kProducerWarps;  // of a block
inline constexpr int kPairs = kWarpRows / 2;                     // of rows, of which a lane has 16 codes each time
inline constexpr int kPackedThreads = kConsumers + 32 * kProducerWarps;
inline constexpr int kBlocksAhead = 2;  // how far ahead rows are called to the second-level cache

// Loads and stores are volatile for the sake of their order: what loads again the registers just stored must stay
// behind the store. Sooner it goes to others, whose copy waits for memory.
__device__ __forceinline__ uint4 Load16(const uint8_t* from) {
  uint4 value;
  asm volatile("ld.volatile.global.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
               : "l"(from));
  return value;
}

__device__ __forceinline__ uint32_t LoadByte(const uint8_t* from) {
  uint32_t value;
  asm volatile("ld.volatile.global.u8 %0, [%1];" : "=r"(value) : "l"(from));
  return value;
}

__device__ __forceinline__ void Store16(uint32_t to, const uint32_t* words) {
  asm volatile("st.volatile.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(words[0]), "r"(words[1]),
               "r"(words[2]), "r"(words[3])
               : "memory");
}

__device__ __forceinline__ uint32_t TimesPair(uint32_t pair, uint32_t factor) {
  uint32_t product;
  asm("mul.rn.bf16x2 %0, %1, %2;" : "=r"(product) : "r"(pair), "r"(factor));
  return product;
}

// Two e4m3 codes, bytes of `codes` that kSelect names with their signs spread over the next byte, as bfloat16. A code's
// bits, moved to a bfloat16's, are its value times 2^-120, those below the normal range too.
template <uint32_t kSelect>
__device__ __forceinline__ uint32_t WidenPair(uint32_t codes, uint32_t factor) {
  uint32_t spread;
  asm("prmt.b32 %0, %1, 0, %2;" : "=r"(spread) : "r"(codes), "n"(kSelect));
  return TimesPair(spread << 4 & 0x87f087f0u, factor);
}

// Scales up to this one, times 2^120, fit bfloat16. Only values beyond 57,344 need a larger one.
inline constexpr uint32_t kScaleOfOneStep = 134;
static_assert(kScaleOfOneStep + 120 == 0xfe);  // the largest exponent

// What a producer lane holds of half of its warp's rows: 16 codes of one row of each pair, and their scale.
struct PackedHalf {
  uint4 codes[kPairs];
  uint32_t scales[kPairs];
};

// A producer lane's place: row `lane` / 4 % 2 of each pair, panel `lane` / 8 of the half, chunks of eight columns 2
// (`lane` % 4) and the next. So neighbours write to all banks.
struct PackedLane {
  uint32_t lane;
  uint32_t codes;   // bytes from the warp's first row to the lane's codes of the first half
  uint32_t scales;  // and to their scale
  uint32_t to;      // the lane's first chunk of the first block in shared memory

  __device__ explicit PackedLane(Shared& s) : lane(threadIdx.x % 32) {
    const int first = FirstOfWarp(), odd = lane / 4 % 2;
    codes = odd * kPackedBytes + lane / 8 * 64 + lane % 4 * 16;
    scales = odd * kPackedBytes + kScalesAt + lane / 16;
    // Bits that are clear are flipped rather than added: a sum the assembler would keep twice, in parts.
    to = SharedAddress(s.stages) + lane / 8 * kPanelBytes + (first + odd) * 128 ^ (lane % 4 * 2 ^ odd) * 16;
    asm volatile("" : "+r"(codes), "+r"(scales), "+r"(to));  // sums that the compiler would keep in parts
  }
  static __device__ int FirstOfWarp() { return (threadIdx.x - kConsumers) / 32 * kWarpRows; }  // row in a block
};

// Where a lane writes its first or second chunk of a row of a pair: the rows of a warp are an atom of the swizzle.
static_assert(kWarpRows == 8);
__device__ __forceinline__ uint32_t ChunkAt(uint32_t to, int pair, int chunk) {
  return (to ^ (pair << 5 | chunk << 4)) + pair * 256;
}

// Loads a pair of rows; the pointers are to the lane's codes and their scale in the first one.
__device__ __forceinline__ void LoadPair(PackedHalf& half, int pair, const uint8_t* codes, const uint8_t* scales) {
  half.codes[pair] = Load16(codes + 2 * pair * kPackedBytes);
  half.scales[pair] = LoadByte(scales + 2 * pair * kPackedBytes);
}

// Writes a half to `to`, this lane's first chunk there, and loads the next one.
__device__ __forceinline__ void TurnOver(PackedHalf& half, uint32_t to, const uint8_t* codes, const uint8_t* scales) {
#pragma unroll
  for (int pair = 0; pair < kPairs; ++pair) {
    // 2^120 times the scale, twice.
    const uint32_t factor = (min(half.scales[pair], kScaleOfOneStep) + 120) * 0x00800080u;
    const uint4 narrow = half.codes[pair];
    const uint32_t words[4] = {narrow.x, narrow.y, narrow.z, narrow.w};
    uint32_t wide[8];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      wide[2 * i] = WidenPair<0x9180>(words[i], factor);
      wide[2 * i + 1] = WidenPair<0xb3a2>(words[i], factor);
    }
    Store16(ChunkAt(to, pair, 0), wide);
    Store16(ChunkAt(to, pair, 1), wide + 4);
    LoadPair(half, pair, codes, scales);
  }
}

// Writes zeros over what this lane wrote of the last `cut` of the warp's rows: past the last token the cache may have
// anything, NaN too, which a weight of zero does not make zero. A row of a panel is 128 bytes.
__device__ inline void ClearTail(uint32_t to, int cut) {
  constexpr uint32_t kZeros[4] = {};
  const int odd = to / 128 % 2;
#pragma unroll 1
  for (int i = 0; i < 2 * kPairs; ++i) {
    if (i / 2 * 2 + odd >= kWarpRows - cut) Store16(ChunkAt(to, i / 2, i % 2), kZeros);
  }
}

// Multiplies what this lane wrote by what its scales have above kScaleOfOneStep.
__device__ inline void TakeSecondStep(uint32_t to, const uint8_t* scales) {
#pragma unroll 1
  for (int i = 0; i < 2 * kPairs; ++i) {
    const uint32_t scale = LoadByte(scales + i / 2 * 2 * kPackedBytes), at = ChunkAt(to, i / 2, i % 2);
    if (scale <= kScaleOfOneStep) continue;
    const uint32_t factor = scale == 0xff ? 0x7fc07fc0u : (scale - kScaleOfOneStep + 127) * 0x00800080u;
    uint32_t words[4];
#pragma unroll
    for (int word = 0; word < 4; ++word) words[word] = TimesPair(__float_as_uint(LoadShared(at + 4 * word)), factor);
    Store16(at, words);
  }
}

// Where a warp's rows of a block are: twice the row of the cache that has the first, plus how many of them, at the end,
// are past the last token. In one register, for the loop over blocks has none to spare.
static_assert(kWarpRows == 8);
__device__ __forceinline__ int CutOf(int rows) { return rows & 15; }
__device__ __forceinline__ int FirstOf(int rows) { return rows >> 1 & ~7; }
__device__ __forceinline__ const uint8_t* RowsAt(const MlaDecode& p, int rows) {
  return static_cast<const uint8_t*>(p.cache) + int64_t{rows >> 4} * (kWarpRows * kPackedBytes);
}

// The same of each block of a split: lane by lane, for a split has as many blocks as a warp lanes. Nothing asks whether
// there are tokens, as a load under a condition would be waited for at once: past the end of the split these are the
// last rows that some warp has there, all of them cut.
static_assert(kMlaSplitTokens == 32 * kBlockTokens);
__device__ __forceinline__ int RowsOfBlocks(const MlaDecode& p, const Work& work, uint32_t lane) {
  const int page_shift = __ffs(p.page_tokens) - 1;
  const int first = static_cast<int>(lane) * kBlockTokens + PackedLane::FirstOfWarp();
  const int token = min(first, (work.tokens - 1) / kWarpRows * kWarpRows);
  const int row = (__ldg(work.pages + (token >> page_shift)) << page_shift) + (token & (p.page_tokens - 1));
  return 2 * row + min(max(first + kWarpRows - work.tokens, 0), kWarpRows);
}

// Calls the warp's rows of a block to the second-level cache.
__device__ __forceinline__ void CallRows(const MlaDecode& p, uint32_t lane, int rows) {
  if (lane == 0) PrefetchBulk(RowsAt(p, rows), kWarpRows * kPackedBytes);
}

// Asks for the keys of the warp's rows of a block. The first lane's place in the first panel is that of the first row.
__device__ __forceinline__ void BringKeys(Shared& s, const Maps& maps, const PackedLane& at, int stage, int rows) {
  if (at.lane == 0) {
    const uint32_t full = SharedAddress(&s.full[stage][kPieces - 1]);
    BarrierArriveExpectAt(full, kWarpRows * 128);
    const uint32_t to = at.to + (stage * kPanels + kPanels - 1) * kPanelBytes;
    CopyTensor2dAt(&maps.cache, full, to, 0, FirstOf(rows), kEvictFirst);
  }
  __syncwarp();
}

// Brings the blocks of one work, `before` blocks after the first of all.
//
// A consumer warp arrives at the barrier of a half, by its first lane, when its own products have ended and so have the
// scores of the warpgroup that had the block: it has waited for their weights, or met them at a barrier. So nobody uses
// the bytes any more. Weights that rotated keys replace were fenced for the copy engine by those who wrote them.
__device__ inline void BringPacked(Shared& s, const Maps& maps, const MlaDecode& p, const Work& work,
                                   const PackedLane& at, int before) {
  const int rows = RowsOfBlocks(p, work, at.lane), blocks = work.blocks;
  PackedHalf half;
#pragma unroll 1
  for (int block = 0; block < min(kBlocksAhead, blocks); ++block) CallRows(p, at.lane, __shfl_sync(~0u, rows, block));
  const uint8_t* const first = RowsAt(p, __shfl_sync(~0u, rows, 0));
#pragma unroll
  for (int pair = 0; pair < kPairs; ++pair) LoadPair(half, pair, first + at.codes, first + at.scales);
  // Of even blocks the first half is free first, of odd ones the second.
#pragma unroll 1
  for (int i = 0; i / 2 < blocks; ++i) {
    const int block = i / 2, side = (i ^ block) & 1;
    const Place place(before + block);
    BarrierWait(&s.empty[place.stage][kHalfPieces * side], place.phase ^ 1);
    const uint32_t to = at.to + (place.stage * kPanels + 4 * side) * kPanelBytes;
    // Past the last block some of the split's rows.
    const uint8_t* const next = RowsAt(p, __shfl_sync(~0u, rows, (i + 1) / 2));
    const int side_after = ~block & 1;
    uint32_t largest = 0;
#pragma unroll
    for (int pair = 0; pair < kPairs; ++pair) largest = max(largest, half.scales[pair]);
    const bool two_steps = __any_sync(~0u, largest > kScaleOfOneStep);
    TurnOver(half, to, next + (at.codes + 256 * side_after), next + (at.scales + 2 * side_after));
    if (two_steps || block + 1 == blocks) [[unlikely]] {
      if (two_steps) TakeSecondStep(to, RowsAt(p, __shfl_sync(~0u, rows, block)) + (at.scales + 2 * side));
      ClearTail(to, CutOf(__shfl_sync(~0u, rows, block)));
    }
    FenceSharedForAsync();
    BarrierArrive(&s.full[place.stage][kHalfPieces * side]);
    if (i % 2 == 0) {
      if (block + kBlocksAhead < blocks) CallRows(p, at.lane, __shfl_sync(~0u, rows, block + kBlocksAhead));
    } else {
      BarrierWait(&s.empty[place.stage][kPieces - 1], place.phase ^ 1);
      BringKeys(s, maps, at, place.stage, __shfl_sync(~0u, rows, block));
    }
  }
}

// All threads of the producer warps.
__device__ inline void ProducePacked(Shared& s, const Maps& maps, const MlaDecode& p, int whole) {
  const PackedLane at(s);
  WorkDealer dealer(p, whole);
  int number = 0, before = 0;
  for (Work work = dealer.Next();; work = dealer.After(work), ++number) {
    if (threadIdx.x < kConsumers + 32) TellWork(s, maps, p, work, number);
    if (work.row < 0) return;
    if (work.blocks > 0) BringPacked(s, maps, p, work, at, before);
    before += work.blocks;
  }
}

}  // namespace conclave::sm90::mla

#endif  // CONCLAVE_MOE_KERNELS_CUDA_SM90_FP8_MLA_PRODUCER_CUH_
