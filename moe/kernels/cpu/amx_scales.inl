// Scales of segments, as products by tiles add them: the depth of a matrix is cut into its scales' blocks, and those
// into segments of at most kSegmentDepth.
#ifndef CONCLAVE_MOE_KERNELS_CPU_AMX_SCALES_INL_
#define CONCLAVE_MOE_KERNELS_CPU_AMX_SCALES_INL_

#include <cstdint>

#include "moe/kernels/cpu/amx_tile.h"
#include "moe/kernels/cpu/dot.h"
#include "moe/kernels/cpu/raw_tiles.h"
#include "moe/kernels/cpu/tile.inl"
#include "moe/kernels/cpu/transpose16.h"

namespace conclave::CONCLAVE_ISA {

inline constexpr int64_t kSegmentDepth = 512;  // also of a decoded panel
inline constexpr int64_t kSegmentsOfPanel = kSegmentDepth / cpu::kTileDepth;
static_assert(kSegmentsOfPanel == 16);

// The length of segments where all begin at multiples of it, a power of two; else 0.
inline int64_t EvenSegment(const cpu::RawScales& scales, int64_t depth) {
  if (scales.block_cols >= depth) return kSegmentDepth;
  return scales.block_cols % cpu::kTileDepth == 0 && kSegmentDepth % scales.block_cols == 0 ? scales.block_cols : 0;
}

// out[i * 16 + r] is the scale of weight row `row + r` in block of columns `block + i`, for r < count and i < segments;
// what stands behind a segment's rows is any number. REQUIRES: count <= 16, segments <= kSegmentsOfPanel; without
// scales, segments is 1
inline void ReadRowScales(const cpu::RawScales& stored, int64_t row, int64_t count, int64_t block, int64_t segments,
                          float* out) {
  if (stored.data == nullptr) {
    Store(out, Set(1.0f));
    return;
  }
  const int64_t first = stored.block_rows == 1 ? row : row / stored.block_rows;
  if (stored.block_rows > 1 && first == (row + count - 1) / stored.block_rows) {
    alignas(64) float scales[kSegmentsOfPanel];
    ReadScales(stored, first * stored.stride + block, segments, scales);
    for (int64_t i = 0; i < segments; ++i) Store(out + i * kTileRows16, Set(scales[i]));
    return;
  }
  alignas(64) float scales[kTileRows16][kSegmentsOfPanel] = {};
  for (int64_t i = 0; i < count; ++i) {
    const int64_t block_row = stored.block_rows == 1 ? row + i : (row + i) / stored.block_rows;
    ReadScales(stored, block_row * stored.stride + block, segments, scales[i]);
  }
  __m512i v[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) v[i] = _mm512_load_si512(scales[i]);
  Transpose16(v);
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) _mm512_store_si512(out + i * kTileRows16, v[i]);
}

}  // namespace conclave::CONCLAVE_ISA

#endif  // CONCLAVE_MOE_KERNELS_CPU_AMX_SCALES_INL_
