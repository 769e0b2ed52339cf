// Scales of sixteen rows of weights, turned round: what integer products by AVX-512 and by tiles multiply with.
#ifndef CONCLAVE_MOE_KERNELS_CPU_INT8_SCALES_H_
#define CONCLAVE_MOE_KERNELS_CPU_INT8_SCALES_H_

#include <immintrin.h>

#include <cstdint>

#include "moe/kernels/cpu/dot.h"
#include "moe/kernels/cpu/transpose16.h"

namespace conclave::CONCLAVE_ISA {

inline constexpr int64_t kScaleRows = 16;

// One scale of each of rows [n, n + count), the others zero.
inline V RowScales(const cpu::RawScales& stored, int64_t n, int64_t count) {
  alignas(64) float scales[kScaleRows] = {};
  for (int64_t i = 0; i < count; ++i) scales[i] = ReadScale(stored, (n + i) * stored.stride);
  return Load(scales);
}

// The next words of 16 rows, of which `count` are wanted and the others zero, turned round.
inline void TransposeWords(const uint8_t* data, int64_t row_bytes, int64_t count, __mmask32 halves,
                           __m512i (&v)[kScaleRows]) {
#pragma GCC unroll 16
  for (int64_t i = 0; i < kScaleRows; ++i) {
    v[i] = _mm512_maskz_loadu_epi16(i < count ? halves : 0, data + i * row_bytes);
  }
  Transpose16(v);
}

// out[g][row] = the scale that rows n + row, row < count, have from column first + g * columns on, g < groups; zero for
// other rows, and for other g up to the next multiple of 32. Blocks of the scales are multiples of `columns`.
inline void ReadGroupScales(const cpu::RawScales& stored, int64_t n, int64_t count, int64_t first, int64_t columns,
                            int64_t groups, float (*out)[kScaleRows]) {
  for (int64_t begin = 0; begin < groups; begin += 32) {
    const int64_t some = groups - begin < 32 ? groups - begin : 32;
    __m512i v[kScaleRows];
    if (stored.element == cpu::ScaleElement::kBf16 && stored.block_cols == columns) {
      const auto* data = static_cast<const uint8_t*>(stored.data) + (n * stored.stride + first / columns + begin) * 2;
      TransposeWords(data, stored.stride * 2, count, static_cast<__mmask32>((uint64_t{1} << some) - 1), v);
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) {
        _mm512_store_si512(out[begin + 2 * i], _mm512_slli_epi32(v[i], 16));
        _mm512_store_si512(out[begin + 2 * i + 1], _mm512_and_si512(v[i], _mm512_set1_epi32(-65536)));
      }
      continue;
    }
    for (int64_t g = 0; g < 32; ++g) {
      for (int64_t row = 0; row < kScaleRows; ++row) {
        const int64_t column = first + (begin + g) * columns;
        out[begin + g][row] =
            g < some && row < count ? ReadScale(stored, (n + row) * stored.stride + column / stored.block_cols) : 0.0f;
      }
    }
  }
}

}  // namespace conclave::CONCLAVE_ISA

#endif  // CONCLAVE_MOE_KERNELS_CPU_INT8_SCALES_H_
