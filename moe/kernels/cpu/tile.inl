// The register tile: kRows x kCols dot products that share their loads. Each of them is accumulated exactly as it
// would be alone: tiles change which dots are computed together, never how one of them is.
//
// The order of one dot product over K, for every tile, panel and thread split:
//   without scales: steps of the dot ascend; a step adds its elements to fixed lanes; lanes are reduced at the end.
//   with scales: K is cut into the scales' blocks, and a block into segments of at most kSegment elements; the lanes
//   of a segment start from zero, and its sums times the block's scale are added, lane by lane, segments ascending.
#ifndef CONCLAVE_MOE_KERNELS_CPU_TILE_INL_
#define CONCLAVE_MOE_KERNELS_CPU_TILE_INL_

#include <cstdint>

#include "moe/kernels/cpu/dot.h"

namespace conclave::CONCLAVE_ISA {

inline constexpr int kTileCols = 4;
inline constexpr int64_t kSegment = 512;
// Tiles of so few rows compute faster than memory delivers weights: they prefetch.
inline constexpr int kRowsThatWaitForMemory = 4;

// A range of K, and the scales of the tile's columns in it.
struct Panel {
  int64_t begin;  // column of the first element; with scales, where a segment starts
  int64_t length;
  int64_t prefetch_bytes;  // how far ahead of a weight few rows ask memory for the next
  const cpu::RawScales* scales;
  int64_t scale_rows[kTileCols];  // row of scales of each column, times the stride
};

// Whole tiles ahead, and far enough for memory's latency.
inline int64_t PrefetchBytes(int64_t tile_bytes) {
  constexpr int64_t kAheadBytes = 8192;
  return tile_bytes == 0 ? 0 : (kAheadBytes + tile_bytes - 1) / tile_bytes * tile_bytes;
}

// Adds elements [begin, end) of the panel to the lanes of `acc`.
template <class Dot, int kRows>
CONCLAVE_ALWAYS_INLINE void Accumulate(const typename Dot::X* const (&x)[kRows], const uint8_t* const (&w)[kTileCols],
                                       int64_t begin, int64_t end, int64_t prefetch_bytes, V (&acc)[kRows][kTileCols]) {
  constexpr int kStep = Dot::kParts * Dot::kPart;
  constexpr int kStepLines = static_cast<int>((Dot::Bytes(kStep) + 63) / 64);
  typename Dot::Register weights[kTileCols][Dot::kParts];
  int64_t k = begin;
  for (; k + kStep <= end; k += kStep) {
#pragma GCC unroll 4
    for (int j = 0; j < kTileCols; ++j) {
      Dot::ReadWeight(w[j] + Dot::Bytes(k), weights[j]);
      if constexpr (kRows <= kRowsThatWaitForMemory) {
#pragma GCC unroll 2
        for (int line = 0; line < kStepLines; ++line) {
          __builtin_prefetch(w[j] + Dot::Bytes(k) + prefetch_bytes + line * 64);
        }
      }
    }
#pragma GCC unroll 2
    for (int part = 0; part < Dot::kParts; ++part) {
#pragma GCC unroll 8
      for (int i = 0; i < kRows; ++i) {
        const typename Dot::Register row = Dot::ReadX(x[i] + k + part * Dot::kPart);
#pragma GCC unroll 4
        for (int j = 0; j < kTileCols; ++j) acc[i][j] = Dot::MultiplyAdd(acc[i][j], row, weights[j][part]);
      }
    }
  }
  if (k == end) return;
  const int count = static_cast<int>(end - k);
#pragma GCC unroll 4
  for (int j = 0; j < kTileCols; ++j) Dot::ReadWeightPartial(w[j] + Dot::Bytes(k), count, weights[j]);
#pragma GCC unroll 2
  for (int part = 0; part < Dot::kParts; ++part) {
    const int left = count - part * Dot::kPart;
    if (left <= 0) break;
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
      const typename Dot::Register row =
          Dot::ReadXPartial(x[i] + k + part * Dot::kPart, left < Dot::kPart ? left : Dot::kPart);
#pragma GCC unroll 4
      for (int j = 0; j < kTileCols; ++j) acc[i][j] = Dot::MultiplyAdd(acc[i][j], row, weights[j][part]);
    }
  }
}

// `count` scales from `index` on, as float32.
inline void ReadScales(const cpu::RawScales& scales, int64_t index, int64_t count, float* out) {
  const auto* data = static_cast<const uint8_t*>(scales.data);
  int64_t i = 0;
  if (scales.element == cpu::ScaleElement::kBf16) {
    for (; i + kLanes <= count; i += kLanes) Store(out + i, LoadBf16(data + (index + i) * sizeof(uint16_t)));
  } else if (scales.element == cpu::ScaleElement::kF32) {
    for (; i + kLanes <= count; i += kLanes) Store(out + i, Load(data + (index + i) * sizeof(float)));
  }
  for (; i < count; ++i) out[i] = ReadScale(scales, index + i);
}

inline constexpr int64_t kGroupsAtOnce = 64;  // whose scales are widened together

// Adds the first groups of the panel, each of kSteps steps, to `totals`, in the order that AddPanel keeps, and returns
// the elements added: it saves what a loop over segments of any length costs where segments are short.
template <class Dot, int kRows, int kSteps>
CONCLAVE_ALWAYS_INLINE int64_t AddGroups(const typename Dot::X* const (&x)[kRows],
                                         const uint8_t* const (&w)[kTileCols], const Panel& panel,
                                         V (&totals)[kRows][kTileCols]) {
  static_assert(Dot::kParts == 1);
  constexpr int64_t kGroup = kSteps * Dot::kPart;
  constexpr int64_t kGroupsOfLine = MaxOf(1, 64 / Dot::Bytes(kGroup));
  constexpr int kGroupLines = static_cast<int>((Dot::Bytes(kGroup) + 63) / 64);
  const int64_t groups = panel.length / kGroup;
  float scales[kTileCols][kGroupsAtOnce];
  for (int64_t first = 0; first < groups; first += kGroupsAtOnce) {
    const int64_t count = MinOf(kGroupsAtOnce, groups - first);
    for (int j = 0; j < kTileCols; ++j) {
      ReadScales(*panel.scales, panel.scale_rows[j] + panel.begin / kGroup + first, count, scales[j]);
    }
    for (int64_t group = 0; group < count; ++group) {
      const int64_t k = (first + group) * kGroup;
      if (kRows <= kRowsThatWaitForMemory && group % kGroupsOfLine == 0) {
#pragma GCC unroll 4
        for (int j = 0; j < kTileCols; ++j) {
          for (int line = 0; line < kGroupLines; ++line) {
            __builtin_prefetch(w[j] + Dot::Bytes(k) + panel.prefetch_bytes + line * 64);
          }
        }
      }
      typename Dot::Register weights[kTileCols][kSteps][1];
#pragma GCC unroll 4
      for (int j = 0; j < kTileCols; ++j) {
#pragma GCC unroll 8
        for (int step = 0; step < kSteps; ++step) {
          Dot::ReadWeight(w[j] + Dot::Bytes(k + step * Dot::kPart), weights[j][step]);
        }
      }
#pragma GCC unroll 8
      for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
        for (int j = 0; j < kTileCols; ++j) {
          V sum = Zero();
#pragma GCC unroll 8
          for (int step = 0; step < kSteps; ++step) {
            sum = Dot::MultiplyAdd(sum, Dot::ReadX(x[i] + k + step * Dot::kPart), weights[j][step][0]);
          }
          totals[i][j] = Fma(sum, Set(scales[j][group]), totals[i][j]);
        }
      }
    }
  }
  return groups * kGroup;
}

// Groups of this many columns have loops of their own where they are few whole steps.
inline constexpr int64_t kGroupCols = 32;

// Adds the whole panel to `totals`.
template <class Dot, int kRows, bool kScaled>
CONCLAVE_ALWAYS_INLINE void AddPanel(const typename Dot::X* const (&x)[kRows], const uint8_t* const (&w)[kTileCols],
                                     const Panel& panel, V (&totals)[kRows][kTileCols]) {
  if constexpr (!kScaled) {
    Accumulate<Dot, kRows>(x, w, 0, panel.length, panel.prefetch_bytes, totals);
  } else {
    const int64_t block_cols = panel.scales->block_cols;
    int64_t begin = 0;
    if constexpr (Dot::kParts == 1 && kGroupCols % Dot::kPart == 0) {
      if (block_cols == kGroupCols && panel.scales->data != nullptr) {
        begin = AddGroups<Dot, kRows, kGroupCols / Dot::kPart>(x, w, panel, totals);
      }
    }
    int64_t block = (panel.begin + begin) / block_cols;
    int64_t block_end = (block + 1) * block_cols - panel.begin;
    for (int64_t k = begin; k < panel.length;) {
      const int64_t end = MinOf(MinOf(k + kSegment, block_end), panel.length);
      V sums[kRows][kTileCols];
#pragma GCC unroll 8
      for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
        for (int j = 0; j < kTileCols; ++j) sums[i][j] = Zero();
      }
      Accumulate<Dot, kRows>(x, w, k, end, panel.prefetch_bytes, sums);
#pragma GCC unroll 4
      for (int j = 0; j < kTileCols; ++j) {
        const V scale = Set(panel.scales->data ? ReadScale(*panel.scales, panel.scale_rows[j] + block) : 1.0f);
#pragma GCC unroll 8
        for (int i = 0; i < kRows; ++i) totals[i][j] = Fma(sums[i][j], scale, totals[i][j]);
      }
      k = end;
      if (end != block_end) continue;
      ++block;
      block_end += block_cols;
    }
  }
}

// How a tile begins and ends: sums of several panels are carried in memory, lane by lane, which changes no bit.
struct Carry {
  V* totals;  // [rows][kTileCols], where begins_at_zero or finishes is false
  bool begins_at_zero;
  bool finishes;  // the sums over lanes go to `sums`, else the totals to memory
  float* sums;    // [rows][kTileCols]
};

template <class Dot, int kRows, bool kScaled>
CONCLAVE_NEVER_INLINE void RunTile(const typename Dot::X* const (&x)[kRows], const uint8_t* const (&w)[kTileCols],
                                   const Panel& panel, const Carry& carry) {
  V totals[kRows][kTileCols];
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < kTileCols; ++j) totals[i][j] = Zero();
  }
  if (!carry.begins_at_zero) {
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
      for (int j = 0; j < kTileCols; ++j) totals[i][j] = carry.totals[i * kTileCols + j];
    }
  }
  AddPanel<Dot, kRows, kScaled>(x, w, panel, totals);
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
    if (carry.finishes) {
      Reduce4(totals[i][0], totals[i][1], totals[i][2], totals[i][3], carry.sums + i * kTileCols);
    } else {
#pragma GCC unroll 4
      for (int j = 0; j < kTileCols; ++j) carry.totals[i * kTileCols + j] = totals[i][j];
    }
  }
}

}  // namespace conclave::CONCLAVE_ISA

#endif  // CONCLAVE_MOE_KERNELS_CPU_TILE_INL_
