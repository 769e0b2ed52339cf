// What the two ways of multiplying 8-bit integers by tiles share. Rows of A are rows of weights, columns of B are rows
// of x.
#ifndef CONCLAVE_MOE_KERNELS_CPU_AMX_INT8_TILES_H_
#define CONCLAVE_MOE_KERNELS_CPU_AMX_INT8_TILES_H_

#include <immintrin.h>

#include <cstdint>

#include "moe/kernels/cpu/amx_tile.h"
#include "moe/kernels/cpu/dot.h"
#include "moe/kernels/cpu/int8_pack.inl"
#include "moe/kernels/cpu/int8_scales.h"
#include "moe/kernels/cpu/transpose16.h"

namespace conclave::CONCLAVE_ISA {

inline constexpr int64_t kTileSums = 16 * 16;  // of a tile of C, rows of 16 whatever its columns

// Tiles of x at a time: they stay in the second-level cache while the weights of a call pass by.
inline int64_t Int8TilesAtATime(int64_t depth, int64_t most) {
  constexpr int64_t kCacheBytes = 1 << 20;
  return MaxOf(2, MinOf(most, kCacheBytes / (cpu::kInt8TileRows * cpu::Int8Blocks(depth) * cpu::kInt8Block) / 2 * 2));
}

inline V ScalesOfTile(const Int8Tile& x, int64_t block) {
  const __mmask16 mask = static_cast<__mmask16>((1u << x.columns) - 1);
  return _mm512_maskz_loadu_ps(mask, x.scales + block * x.columns);
}

// Totals of a tile of C to y: columns [n, n + count) of the rows of tile `index` of x, times `scales` [16].
inline void StoreInt8Tile(const cpu::RawInt8Linear& args, int64_t n, int64_t count, int64_t index, const float* totals,
                          V scales) {
  const int64_t rows = MinOf(cpu::kInt8TileRows, args.x.rows - index * cpu::kInt8TileRows);
  const __mmask16 mask = static_cast<__mmask16>((1u << count) - 1);
  float* y = args.y + index * cpu::kInt8TileRows * args.y_stride + n;
  __m512i v[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) v[i] = _mm512_load_si512(totals + i * 16);
  Transpose16(v);
  alignas(64) float out[16][16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) _mm512_store_ps(out[i], Mul(_mm512_castsi512_ps(v[i]), scales));
  for (int64_t row = 0; row < rows; ++row) _mm512_mask_storeu_ps(y + row * args.y_stride, mask, Load(out[row]));
}

// What totals are multiplied by at last.
template <cpu::Int8Scaling kScaling>
inline V LastScales(const cpu::RawScales& stored, int64_t n, int64_t count) {
  return kScaling == cpu::Int8Scaling::kRow ? RowScales(stored, n, count) : Set(1.0f);
}

}  // namespace conclave::CONCLAVE_ISA

#endif  // CONCLAVE_MOE_KERNELS_CPU_AMX_INT8_TILES_H_
