// Tiles of weights stored as e4m3: decoded to bfloat16, which holds every one of its values. Scales come later.
#ifndef CONCLAVE_MOE_KERNELS_CPU_AMX_F8_H_
#define CONCLAVE_MOE_KERNELS_CPU_AMX_F8_H_

#include <immintrin.h>

#include <cstdint>

#include "moe/kernels/cpu/amx_tile.h"
#include "moe/kernels/cpu/dot_bf16.h"

namespace conclave::CONCLAVE_ISA {

// As in amx_weights.h, and what amx_few.inl wants.
struct TileF8 {
  static constexpr bool kDirect = false;
  static constexpr bool kScaled = true;
  static constexpr int64_t Bytes(int64_t elements) { return elements; }
  static constexpr int kPlanes = 1;
  static void Decode(const uint8_t* p, __mmask32 mask, __m512i (&out)[kPlanes]) {
    Widen(_mm256_maskz_loadu_epi8(mask, p), out);
  }
  static void DecodeAll(const uint8_t* p, __m512i (&out)[kPlanes]) { Widen(LoadHalves(p), out); }
  // kRows rows of codes of 64 bytes, `stride` bytes apart, become rows of two tiles; memory is asked for what is
  // `ahead`. Codes of normal numbers become bfloat16 bit by bit: exponents grow by 120, so that the upper one of their
  // four bits e becomes e and four times its complement. Rows that hold others are done again, by tables.
  template <int kRows>
  CONCLAVE_ALWAYS_INLINE static void DecodeRows(const uint8_t* rows, int64_t stride, const Streams& ahead,
                                                uint8_t* out) {
    const __m512i order = _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7);  // as in PairDotF8
    const __m512i high_bits = _mm512_set1_epi64(0x1020404040404080);
    const __m512i low_bits = _mm512_set1_epi64(0x0000000001020408);
    __m512i oddest = _mm512_setzero_si512();
#pragma GCC unroll 16
    for (int row = 0; row < kRows; ++row) {
      ahead.AskFor(row);
      const __m512i codes = _mm512_permutexvar_epi64(order, _mm512_loadu_si512(rows + row * stride));
      oddest = _mm512_max_epu8(oddest, Oddness(codes));
      const __m512i high = _mm512_gf2p8affine_epi64_epi8(codes, high_bits, 0x3c);
      const __m512i low = _mm512_gf2p8affine_epi64_epi8(codes, low_bits, 0);
      _mm512_store_si512(out + row * 64, _mm512_unpacklo_epi8(low, high));
      _mm512_store_si512(out + kTileBytes + row * 64, _mm512_unpackhi_epi8(low, high));
    }
    if (__builtin_expect(IsOdd(oddest) != 0, 0)) DecodeOddRows(rows, stride, kRows, out);
  }
  // Above 118 for zero, subnormal numbers and NaN: with exponent bits e3 e2 e1 e0, the bits are 0, the complements of
  // e3 ^ e2, e2 ^ e1, e1 ^ e0 and e0, which are 1111 where all are zero and 1110 where all are set, and the mantissa.
  static __m512i Oddness(__m512i codes) {
    return _mm512_gf2p8affine_epi64_epi8(codes, _mm512_set1_epi64(0x0102040818306000), 0x78);
  }
  static __mmask64 IsOdd(__m512i oddness) { return _mm512_cmpgt_epu8_mask(oddness, _mm512_set1_epi8(118)); }
  CONCLAVE_NEVER_INLINE static void DecodeOddRows(const uint8_t* p, int64_t stride, int rows, uint8_t* out) {
    uint32_t odd = 0;
    for (int row = 0; row < rows; ++row) {
      odd |= static_cast<uint32_t>(IsOdd(Oddness(_mm512_loadu_si512(p + row * stride))) != 0) << row;
    }
    for (; odd != 0; odd &= odd - 1) {
      const int row = __builtin_ctz(odd);
      __m512i tiles[2];
      PairDotF8::ReadWeight(p + row * stride, tiles);
      for (int i = 0; i < 2; ++i) _mm512_store_si512(out + i * kTileBytes + row * 64, tiles[i]);
    }
  }
  static void Widen(__m256i bytes, __m512i (&out)[kPlanes]) {
    const __m512i codes = _mm512_cvtepu8_epi16(bytes);
    const __m512i magnitude = _mm512_and_si512(codes, _mm512_set1_epi16(0x7f));
    // Each 16-bit lane looks up two bytes, the lower table under the code, the upper one beside it.
    const __m512i low =
        _mm512_permutex2var_epi8(_mm512_load_si512(kF8Tables.low), magnitude, _mm512_load_si512(kF8Tables.low + 64));
    const __m512i high =
        _mm512_permutex2var_epi8(_mm512_load_si512(kF8Tables.high), magnitude, _mm512_load_si512(kF8Tables.high + 64));
    const __m512i low_byte = _mm512_and_si512(low, _mm512_set1_epi16(0xff));
    const __m512i sign = _mm512_slli_epi16(_mm512_and_si512(codes, _mm512_set1_epi16(0x80)), 8);
    out[0] = _mm512_or_si512(_mm512_or_si512(low_byte, _mm512_slli_epi16(high, 8)), sign);
  }
};

}  // namespace conclave::CONCLAVE_ISA

#endif  // CONCLAVE_MOE_KERNELS_CPU_AMX_F8_H_
