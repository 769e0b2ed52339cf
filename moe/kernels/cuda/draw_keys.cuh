// The order in which a draw walks through a row, as keys; and what log probabilities take of it, in the arithmetic of
// token_draw.h. All functions are one block's of kDrawThreads threads, every thread of which calls them.
#pragma once

#include <cstdint>

#include "moe/kernels/accelerator/ops.h"

namespace conclave::cuda {

using Word = unsigned long long;

constexpr int kDrawThreads = 1024, kDrawWarps = kDrawThreads / 32;

// Ascends as the walk goes: from larger to smaller logits, from lower to higher ids. No finite value's key is kNoKey.
__device__ inline Word KeyOf(float value, uint32_t id) {
  const uint32_t bits = __float_as_uint(value + 0.0f);  // -0 becomes +0, for they are equal
  const uint32_t falling = bits & 0x80000000u ? bits : ~bits & 0x7fffffffu;
  return static_cast<Word>(falling) << 32 | id;
}
__device__ inline float ValueOf(Word key) {
  const uint32_t falling = static_cast<uint32_t>(key >> 32);
  return __uint_as_float(falling & 0x80000000u ? falling : ~falling & 0x7fffffffu);
}
constexpr Word kNoKey = ~Word{0};

// Shared by the block.
struct TopScratch {
  Word first[kDrawWarps];  // the least key of each warp's ids that was not taken yet
  Word total;
};

__device__ inline Word WarpMin(Word key) {
  for (int step = 16; step > 0; step /= 2) key = min(key, __shfl_xor_sync(0xffffffffu, key, step));
  return key;
}

// The least key among the ids of this warp, which has every kDrawWarps-th 32 of them; above `taken`, but for `any`.
__device__ inline Word NextOfWarp(const float* x, int64_t cols, bool any, Word taken) {
  Word best = kNoKey;
#pragma unroll 16
  for (int64_t i = threadIdx.x; i < cols; i += kDrawThreads) {
    const Word key = KeyOf(x[i], static_cast<uint32_t>(i));
    if (any || key > taken) best = min(best, key);
  }
  return WarpMin(best);
}

// DrawnLogits of x [cols], but for what is drawn, and its `top` most likely ids into words; top <= cols.
__device__ inline void TellLogits(TopScratch& s, const float* x, int64_t cols, int top, uint64_t* words) {
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const Word first = NextOfWarp(x, cols, true, 0);
  if (lane == 0) s.first[warp] = first;
  if (threadIdx.x == 0) s.total = 0;
  __syncthreads();
  const float largest = ValueOf(WarpMin(s.first[lane]));
  Word weights = 0;
  for (int64_t i = threadIdx.x; i < cols; i += kDrawThreads) weights += token_draw::LogitWeight(x[i], largest, 1.0);
  for (int step = 16; step > 0; step /= 2) weights += __shfl_xor_sync(0xffffffffu, weights, step);
  if (lane == 0) atomicAdd(&s.total, weights);
  for (int i = 0; i < top; ++i) {
    const Word taken = WarpMin(s.first[lane]);
    __syncthreads();  // all have read
    const uint32_t id = static_cast<uint32_t>(taken);
    if (taken != kNoKey && (id & (kDrawThreads - 1)) >> 5 == static_cast<uint32_t>(warp)) {
      const Word next = NextOfWarp(x, cols, false, taken);
      if (lane == 0) {
        s.first[warp] = next;
        reinterpret_cast<LikelyToken*>(words + kDrawnLogitsWords)[i] = {static_cast<int32_t>(id), x[id]};
      }
    }
    __syncthreads();
  }
  __syncthreads();
  if (threadIdx.x == 0) *reinterpret_cast<DrawnLogits*>(words) = {s.total, largest, 0.0f};
  __syncthreads();  // s may be used otherwise now
}

// What the drawn id's logit was before the changes, where the row asks.
__device__ inline void TellDrawn(const DrawArgs& args, const TokenDraw& draw, const float* x, int32_t id) {
  if (draw.top_logprobs < 0) return;
  DrawnLogits* const logits = reinterpret_cast<DrawnLogits*>(args.words + draw.first_word);
  bool changed = false;
  for (int i = threadIdx.x; i < draw.changes; i += kDrawThreads) {
    const int32_t* const entry = args.tables + draw.first_change + 3 * i;
    if (entry[0] != id) continue;
    logits->drawn = __int_as_float(entry[1]);
    changed = true;
  }
  if (!__syncthreads_or(changed) && threadIdx.x == 0) logits->drawn = x[id];
}

}  // namespace conclave::cuda
