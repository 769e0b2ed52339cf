// The warps that feed MLA decode on Hopper from a cache in eight bits (moe/tensor/latent_row.h): see
// sm90_bf16_mla_decode.cuh.
//
// The tensor cores take bfloat16, which holds a code times its power of two exactly. Four warps read rows from memory,
// widen them in registers and write them where the copy engine would have put them. A lane has 16 codes of a row: 32
// lanes, 512 codes.
#ifndef CONCLAVE_MOE_KERNELS_CUDA_SM90_FP8_MLA_PRODUCER_CUH_
#define CONCLAVE_MOE_KERNELS_CUDA_SM90_FP8_MLA_PRODUCER_CUH_

#include "moe/kernels/cuda/sm90_bf16_mla_stages.cuh"
#include "moe/tensor/latent_row.h"

namespace conclave::sm90::mla {

inline constexpr LatentRowLayout kPackedRow = {.latent = kLatent, .rope = kRope};
inline constexpr int kPackedBytes = static_cast<int>(kPackedRow.bytes());
inline constexpr int kScalesAt = static_cast<int>(kPackedRow.scales_at()), kKeysAt = static_cast<int>(kPackedRow.rope_at());
static_assert(kPackedBytes % 16 == 0 && kScalesAt % 4 == 0 && kPackedRow.scales() == 4);
inline constexpr int kProducerWarps = 4;  // more would not leave wgmma the registers that it needs
inline constexpr int kWarpRows = kBlockTokens / kProducerWarps;  // of a block
inline constexpr int kGroupRows = 4;                             // that a warp has on their way
inline constexpr int kBlocksAhead = 2;  // how far ahead rows are called to the second-level cache

// Row `token` of a split, in memory.
__device__ __forceinline__ const uint8_t* PackedRow(const MlaDecode& p, const Work& work, int page_shift, int token) {
  const int64_t page = __ldg(work.pages + (token >> page_shift));
  return static_cast<const uint8_t*>(p.cache) + ((page << page_shift) + (token & (p.page_tokens - 1))) * kPackedBytes;
}

// A warp's rows of a block, which lie in one page. Loads ask nothing, as a load under a condition would be waited for at
// once: past the end of the split they get what the last page holds, which nobody writes on.
__device__ __forceinline__ const uint8_t* WarpRows(const MlaDecode& p, const Work& work, int page_shift, int token) {
  return PackedRow(p, work, page_shift, min(token, (work.tokens - 1) / kWarpRows * kWarpRows));
}

__device__ __forceinline__ uint4 Load16(const uint8_t* from) {
  uint4 value;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
               : "l"(from));
  return value;
}

__device__ __forceinline__ void Store16(uint32_t to, const uint4& value) {
  asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(value.x), "r"(value.y), "r"(value.z), "r"(value.w)
               : "memory");
}

__device__ __forceinline__ uint32_t TimesPair(uint32_t pair, uint32_t factor) {
  uint32_t product;
  asm("mul.rn.bf16x2 %0, %1, %2;" : "=r"(product) : "r"(pair), "r"(factor));
  return product;
}

// Four e4m3 codes as bfloat16, times a power of two. A code's bits, moved to a bfloat16's, are its value times 2^-120,
// the ones below the normal range too; 2^120 times the scale need not fit.
__device__ __forceinline__ uint2 WidenFour(uint32_t codes, uint32_t scale) {
  constexpr uint32_t kBias = 0x7b807b80u;  // 2^120
  const uint32_t low = __byte_perm(codes, 0, 0x1404), high = __byte_perm(codes, 0, 0x3424);
  const uint32_t first = (low >> 4 & 0x07f007f0u) | (low & 0x80008000u);
  const uint32_t second = (high >> 4 & 0x07f007f0u) | (high & 0x80008000u);
  return make_uint2(TimesPair(TimesPair(first, kBias), scale), TimesPair(TimesPair(second, kBias), scale));
}

// What a producer thread knows of its place.
struct PackedLane {
  int lane;
  uint32_t panel;  // of its codes, from the first panel of a block
  int chunk;       // of 16 bytes of bfloat16 that it writes first: odd panels write their second one first, so that a
                   // warp's writes meet all banks
};

// Row `token` of a block: this lane's codes of it.
__device__ __forceinline__ void StoreCodes(const PackedLane& at, uint32_t block, int token, const uint4& codes, uint32_t scales) {
  const uint32_t exponent = scales >> at.lane / 8 * 8 & 0xff;
  const uint32_t scale = (exponent == 0xff ? 0x7fc0u : exponent << 7) * 0x10001u;
  const uint32_t row = block + at.panel + token * 128;
  const bool swap = at.chunk & 1;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const bool second = half != swap;
    const uint2 low = WidenFour(second ? codes.z : codes.x, scale), high = WidenFour(second ? codes.w : codes.y, scale);
    Store16(row + ((at.chunk ^ half ^ (token & 7)) << 4), make_uint4(low.x, low.y, high.x, high.y));
  }
}

// Calls the rows of a block to the second-level cache: a thread for each of its pages.
__device__ __forceinline__ void CallRows(const MlaDecode& p, const Work& work, int page_shift, int block, int thread) {
  const int token = block * kBlockTokens + (thread << page_shift);
  if (thread >= kBlockTokens >> page_shift || token >= work.tokens) return;
  const uint32_t bytes = min(p.page_tokens, work.tokens - token) * kPackedBytes;
  asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(PackedRow(p, work, page_shift, token)), "r"(bytes));
}

// A group of a warp's rows on its way: each row's codes, the scales of row `lane` % 4, a part of the key of row
// `lane` / 8.
struct PackedGroup {
  uint4 codes[kGroupRows], keys;
  uint32_t scales;
};

__device__ __forceinline__ void LoadRest(PackedGroup& group, const uint8_t* rows, int lane) {
  asm volatile("ld.global.nc.u32 %0, [%1];" : "=r"(group.scales) : "l"(rows + lane % kGroupRows * kPackedBytes + kScalesAt));
  group.keys = Load16(rows + lane / 8 * kPackedBytes + kKeysAt + lane % 8 * 16);
}

// Writes the group, rows [token, token + kGroupRows) of a block at `to` that has `tokens`, and loads the one at `rows`.
__device__ __forceinline__ void TurnOver(const PackedLane& at, PackedGroup& group, uint32_t to, int token, int tokens,
                                         const uint8_t* rows) {
#pragma unroll
  for (int i = 0; i < kGroupRows; ++i) {
    const uint32_t scales = __shfl_sync(~0u, group.scales, i);
    if (token + i < tokens) StoreCodes(at, to, token + i, group.codes[i], scales);
    group.codes[i] = Load16(rows + i * kPackedBytes + at.lane * 16);
  }
  const int row = token + at.lane / 8;
  if (row < tokens) Store16(to + (kPanels - 1) * kPanelBytes + row * 128 + ((at.lane % 8 ^ (row & 7)) << 4), group.keys);
  LoadRest(group, rows, at.lane);
}

// Brings the blocks of one work, `before` blocks after the first of all.
__device__ inline void BringPacked(Shared& s, const MlaDecode& p, const Work& work, const PackedLane& at, int before) {
  const int thread = threadIdx.x - kConsumers, first = thread / 32 * kWarpRows;
  const int page_shift = __ffs(p.page_tokens) - 1;
  const uint32_t stages = SharedAddress(s.stages);
  for (int block = 0; block < min(kBlocksAhead, work.blocks); ++block) CallRows(p, work, page_shift, block, thread);
  PackedGroup group;
  const uint8_t* rows = WarpRows(p, work, page_shift, first);
#pragma unroll
  for (int i = 0; i < kGroupRows; ++i) group.codes[i] = Load16(rows + i * kPackedBytes + at.lane * 16);
  LoadRest(group, rows, at.lane);
  for (int block = 0; block < work.blocks; ++block) {
    const int stage = (before + block) % kStages, phase = (before + block) / kStages & 1 ^ 1;
    const int tokens = work.tokens - block * kBlockTokens;  // from this block on
    const uint32_t to = stages + stage * (kPanels * kPanelBytes);
    const uint8_t* const next = WarpRows(p, work, page_shift, (block + 1) * kBlockTokens + first);
    if (block + kBlocksAhead < work.blocks) CallRows(p, work, page_shift, block + kBlocksAhead, thread);
#pragma unroll
    for (int piece = 0; piece < kPieces; ++piece) BarrierWait(&s.empty[stage][piece], phase);
#pragma unroll 1
    for (int i = 0; i < kWarpRows; i += kGroupRows) {
      rows = i + kGroupRows < kWarpRows ? rows + kGroupRows * kPackedBytes : next;
      TurnOver(at, group, to, first + i, tokens, rows);
    }
    FenceSharedForAsync();
#pragma unroll
    for (int piece = 0; piece < kPieces; piece += kHalfPieces) BarrierArrive(&s.full[stage][piece]);
  }
}

// All threads of the producer warps.
__device__ inline void ProducePacked(Shared& s, const Maps& maps, const MlaDecode& p, int whole) {
  PackedLane at;
  at.lane = threadIdx.x % 32;
  at.panel = at.lane / 4 * kPanelBytes;
  at.chunk = at.lane % 4 * 2 + at.lane / 4 % 2;
  WorkDealer dealer(p, whole);
  int number = 0, before = 0;
  for (Work work = dealer.Next();; work = dealer.After(work), ++number) {
    if (threadIdx.x < kConsumers + 32) TellWork(s, maps, p, work, number);
    if (work.row < 0) return;
    if (work.blocks > 0) BringPacked(s, p, work, at, before);
    before += work.blocks;
  }
}

}  // namespace conclave::sm90::mla

#endif  // CONCLAVE_MOE_KERNELS_CUDA_SM90_FP8_MLA_PRODUCER_CUH_
