// The transposition of 16 x 16 words: between rows of x and columns of tiles, either way.
#ifndef CONCLAVE_MOE_KERNELS_CPU_TRANSPOSE16_H_
#define CONCLAVE_MOE_KERNELS_CPU_TRANSPOSE16_H_

#include <immintrin.h>

namespace conclave::CONCLAVE_ISA {

// Sixteen vectors of 32-bit words, transposed in place.
// Inlined everywhere: a call would carry the vectors through memory.
__attribute__((always_inline)) inline void Transpose16(__m512i (&v)[16]) {
  __m512i t[16];
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(v[i], v[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(v[i], v[i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    v[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    v[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    v[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    v[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
  // v[4 * g + c] now holds, in its 128-bit lane l, column 4 * l + c of rows 4 * g to 4 * g + 3.
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) {
    const __m512i low01 = _mm512_shuffle_i32x4(v[c], v[4 + c], 0x44);
    const __m512i high01 = _mm512_shuffle_i32x4(v[c], v[4 + c], 0xee);
    const __m512i low23 = _mm512_shuffle_i32x4(v[8 + c], v[12 + c], 0x44);
    const __m512i high23 = _mm512_shuffle_i32x4(v[8 + c], v[12 + c], 0xee);
    t[c] = _mm512_shuffle_i32x4(low01, low23, 0x88);
    t[4 + c] = _mm512_shuffle_i32x4(low01, low23, 0xdd);
    t[8 + c] = _mm512_shuffle_i32x4(high01, high23, 0x88);
    t[12 + c] = _mm512_shuffle_i32x4(high01, high23, 0xdd);
  }
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) v[i] = t[i];
}

}  // namespace conclave::CONCLAVE_ISA

#endif  // CONCLAVE_MOE_KERNELS_CPU_TRANSPOSE16_H_
