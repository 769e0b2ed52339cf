// Tiles of weights: as they lie in memory where they are bfloat16, else decoded, 16 rows by 32 elements at a time.
// A value that is no bfloat16 becomes the sum of several (kPlanes).
#ifndef CONCLAVE_MOE_KERNELS_CPU_AMX_WEIGHTS_H_
#define CONCLAVE_MOE_KERNELS_CPU_AMX_WEIGHTS_H_

#include <immintrin.h>

#include <cstdint>

#include "moe/kernels/cpu/amx_tile.h"
#include "moe/kernels/cpu/dot_bf16.h"
#include "moe/kernels/cpu/dot_bf16_integers.h"

namespace conclave::CONCLAVE_ISA {

// What rounding left over; nothing where the rounded value is not finite.
inline __m512 LeftOver(__m512 value, __m512 rounded) {
  constexpr int kNanOrInfinity = 0x01 | 0x08 | 0x10 | 0x80;
  const __mmask16 finite = _knot_mask16(_mm512_fpclass_ps_mask(rounded, kNanOrInfinity));
  return _mm512_maskz_sub_ps(finite, value, rounded);
}
// 32 float32 as the sum of kParts registers of bfloat16: rounded; what that left over, rounded; and so on.
template <int kParts>
inline void Split(__m512 low, __m512 high, __m512i* parts) {
  for (int part = 0; part < kParts; ++part) {
    parts[part] = PackBf16(low, high);
    if (part + 1 == kParts) return;
    low = LeftOver(low, WidenBf16(_mm512_castsi512_si256(parts[part])));
    high = LeftOver(high, WidenBf16(_mm512_extracti64x4_epi64(parts[part], 1)));
  }
}

// Bits [begin, end) of 32, both clamped.
inline __mmask32 Elements(int64_t begin, int64_t end) {
  begin = begin < 0 ? 0 : begin;
  end = end > 32 ? 32 : end;
  if (begin >= end) return 0;
  const uint64_t below_end = (uint64_t{1} << end) - 1;
  const uint64_t below_begin = (uint64_t{1} << begin) - 1;
  return static_cast<__mmask32>(below_end & ~below_begin);
}

// DecodeAll: 32 elements from `p` on. Decode: 32 elements from `p` on, of which `mask` names those to read (a range,
// not empty); the others become zero. DecodeUnit: 64 bytes of codes from `p` on.
struct TileBf16 {
  static constexpr bool kDirect = true;
  static constexpr bool kScaled = false;
  static constexpr int64_t Bytes(int64_t elements) { return 2 * elements; }
  static constexpr int kPlanes = 1;
  static void Decode(const uint8_t* p, __mmask32 mask, __m512i (&out)[kPlanes]) {
    out[0] = _mm512_maskz_loadu_epi16(mask, p);
  }
  static void DecodeAll(const uint8_t* p, __m512i (&out)[kPlanes]) { out[0] = _mm512_loadu_si512(p); }
};

struct TileF8 {
  static constexpr bool kDirect = false;
  static constexpr bool kScaled = true;
  static constexpr int64_t Bytes(int64_t elements) { return elements; }
  static constexpr int kPlanes = 1;
  static void Decode(const uint8_t* p, __mmask32 mask, __m512i (&out)[kPlanes]) {
    Widen(_mm256_maskz_loadu_epi8(mask, p), out);
  }
  static void DecodeAll(const uint8_t* p, __m512i (&out)[kPlanes]) { Widen(LoadHalves(p), out); }
  static void DecodeUnit(const uint8_t* p, __m512i (&out)[2]) { PairDotF8::ReadWeight(p, out); }
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

struct TileInt8 {
  static constexpr bool kDirect = false;
  static constexpr bool kScaled = true;
  static constexpr int64_t Bytes(int64_t elements) { return elements; }
  static constexpr int kPlanes = 1;
  static void Decode(const uint8_t* p, __mmask32 mask, __m512i (&out)[kPlanes]) {
    out[0] = _mm512_maskz_mov_epi16(mask, PairDotInt8::Decode(_mm256_maskz_loadu_epi8(mask, p)));
  }
  static void DecodeAll(const uint8_t* p, __m512i (&out)[kPlanes]) { PairDotInt8::ReadWeight(p, out); }
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
  static void DecodeUnit(const uint8_t* p, __m512i (&out)[4]) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      out[i] = PairDotInt4::Decode(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 16 * i)));
    }
  }
};

inline void LoadFloats(const uint8_t* p, __mmask32 mask, __m512& low, __m512& high) {
  low = _mm512_maskz_loadu_ps(static_cast<__mmask16>(mask), p);
  high = _mm512_maskz_loadu_ps(static_cast<__mmask16>(mask >> 16), p + 64);
}

struct TileF32Rounded {
  static constexpr bool kDirect = false;
  static constexpr bool kScaled = false;
  static constexpr int64_t Bytes(int64_t elements) { return 4 * elements; }
  static constexpr int kPlanes = 1;
  static void Decode(const uint8_t* p, __mmask32 mask, __m512i (&out)[kPlanes]) {
    __m512 low, high;
    LoadFloats(p, mask, low, high);
    out[0] = PackBf16(low, high);
  }
  static void DecodeAll(const uint8_t* p, __m512i (&out)[kPlanes]) { Decode(p, ~__mmask32{0}, out); }
};

struct TileF32 {
  static constexpr bool kDirect = false;
  static constexpr bool kScaled = false;
  static constexpr int64_t Bytes(int64_t elements) { return 4 * elements; }
  static constexpr int kPlanes = 3;
  static void Decode(const uint8_t* p, __mmask32 mask, __m512i (&out)[kPlanes]) {
    __m512 low, high;
    LoadFloats(p, mask, low, high);
    Split<kPlanes>(low, high, out);
  }
  static void DecodeAll(const uint8_t* p, __m512i (&out)[kPlanes]) { Decode(p, ~__mmask32{0}, out); }
};

// Two bfloat16 hold every float16.
struct TileF16 {
  static constexpr bool kDirect = false;
  static constexpr bool kScaled = false;
  static constexpr int64_t Bytes(int64_t elements) { return 2 * elements; }
  static constexpr int kPlanes = 2;
  static void Decode(const uint8_t* p, __mmask32 mask, __m512i (&out)[kPlanes]) {
    const __m512i bits = _mm512_maskz_loadu_epi16(mask, p);
    Split<kPlanes>(_mm512_cvtph_ps(_mm512_castsi512_si256(bits)), _mm512_cvtph_ps(_mm512_extracti64x4_epi64(bits, 1)),
                   out);
  }
  static void DecodeAll(const uint8_t* p, __m512i (&out)[kPlanes]) { Decode(p, ~__mmask32{0}, out); }
};

}  // namespace conclave::CONCLAVE_ISA

#endif  // CONCLAVE_MOE_KERNELS_CPU_AMX_WEIGHTS_H_
