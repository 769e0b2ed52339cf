// Tiles of weights that are stored as codes of one byte or half of one: decoded to bfloat16, which holds every one of
// their values. Scales come later.
#ifndef CONCLAVE_MOE_KERNELS_CPU_AMX_CODES_H_
#define CONCLAVE_MOE_KERNELS_CPU_AMX_CODES_H_

#include <immintrin.h>

#include <cstdint>

#include "moe/kernels/cpu/amx_tile.h"
#include "moe/kernels/cpu/dot_bf16.h"
#include "moe/kernels/cpu/dot_bf16_integers.h"

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

// As TileF8::DecodeRows, by Source::DecodeUnit: 64 bytes of codes from `p` on.
template <class Source, int kRows>
CONCLAVE_ALWAYS_INLINE void DecodeRowByRow(const uint8_t* p, int64_t stride, const Streams& ahead, uint8_t* out) {
  constexpr int kTiles = 64 / Source::Bytes(32);
#pragma GCC unroll 16
  for (int row = 0; row < kRows; ++row) {
    ahead.AskFor(row);
    __m512i tiles[kTiles];
    Source::DecodeUnit(p + row * stride, tiles);
#pragma GCC unroll 4
    for (int i = 0; i < kTiles; ++i) _mm512_store_si512(out + i * kTileBytes + row * 64, tiles[i]);
  }
}

struct TileInt8 {
  static constexpr bool kDirect = false;
  static constexpr bool kScaled = true;
  static constexpr int64_t Bytes(int64_t elements) { return elements; }
  static constexpr int kPlanes = 1;
  static void Decode(const uint8_t* p, __mmask32 mask, __m512i (&out)[kPlanes]) {
    out[0] = _mm512_maskz_mov_epi16(mask, PairDotInt8::Decode(_mm256_maskz_loadu_epi8(mask, p)));
  }
  static void DecodeAll(const uint8_t* p, __m512i (&out)[kPlanes]) { PairDotInt8::ReadWeight(p, out); }
  template <int kRows>
  CONCLAVE_ALWAYS_INLINE static void DecodeRows(const uint8_t* p, int64_t stride, const Streams& ahead, uint8_t* out) {
    DecodeRowByRow<TileInt8, kRows>(p, stride, ahead, out);
  }
  // A byte u under the upper bytes of 2^23 is the float32 2^23 + u, and exact once 2^23 + 128 is taken away.
  static void DecodeUnit(const uint8_t* p, __m512i (&out)[2]) {
    constexpr __mmask64 kLowestBytes = 0x1111111111111111;
    const __m512i codes = _mm512_loadu_si512(p);
    const __m512i upper_bytes = _mm512_set1_epi32(0x4b000000);
    const __m512 offset = _mm512_set1_ps(0x1p23f + 128);
    const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i) {
      const __m512i index = _mm512_add_epi32(even, _mm512_set1_epi32(32 * i));
      const __m512i low = _mm512_mask_permutexvar_epi8(upper_bytes, kLowestBytes, index, codes);
      const __m512i high =
          _mm512_mask_permutexvar_epi8(upper_bytes, kLowestBytes, _mm512_add_epi32(index, _mm512_set1_epi32(1)), codes);
      out[i] = _mm512_mask_mov_epi16(
          _mm512_srli_epi32(_mm512_castps_si512(_mm512_sub_ps(_mm512_castsi512_ps(low), offset)), 16), 0xaaaaaaaa,
          _mm512_castps_si512(_mm512_sub_ps(_mm512_castsi512_ps(high), offset)));
    }
  }
};

struct TileInt4 {
  static constexpr bool kDirect = false;
  static constexpr bool kScaled = true;
  static constexpr int64_t Bytes(int64_t elements) { return (elements + 1) / 2; }
  static constexpr int kPlanes = 1;
  static void Decode(const uint8_t* p, __mmask32 mask, __m512i (&out)[kPlanes]) {
    const uint32_t below_end = (uint32_t{1} << (33 - __builtin_clz(mask)) / 2) - 1;
    const uint32_t below_begin = (uint32_t{1} << __builtin_ctz(mask) / 2) - 1;
    const auto bytes = static_cast<__mmask16>(below_end & ~below_begin);
    out[0] = _mm512_maskz_mov_epi16(mask, PairDotInt4::Decode(_mm_maskz_loadu_epi8(bytes, p)));
  }
  static void DecodeAll(const uint8_t* p, __m512i (&out)[kPlanes]) { PairDotInt4::ReadWeight(p, out); }
  template <int kRows>
  CONCLAVE_ALWAYS_INLINE static void DecodeRows(const uint8_t* p, int64_t stride, const Streams& ahead, uint8_t* out) {
    DecodeRowByRow<TileInt4, kRows>(p, stride, ahead, out);
  }
  static void DecodeUnit(const uint8_t* p, __m512i (&out)[4]) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      out[i] = PairDotInt4::Decode(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 16 * i)));
    }
  }
};

}  // namespace conclave::CONCLAVE_ISA

#endif  // CONCLAVE_MOE_KERNELS_CPU_AMX_CODES_H_
