// Tiles of weights that are stored as integers of one byte or half of one: decoded to bfloat16, which holds every one
// of their values. Scales come later. As amx_f8.h.
#ifndef CONCLAVE_MOE_KERNELS_CPU_AMX_CODES_H_
#define CONCLAVE_MOE_KERNELS_CPU_AMX_CODES_H_

#include <immintrin.h>

#include <cstdint>

#include "moe/kernels/cpu/amx_tile.h"
#include "moe/kernels/cpu/dot_bf16.h"
#include "moe/kernels/cpu/dot_bf16_integers.h"

namespace conclave::CONCLAVE_ISA {

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
