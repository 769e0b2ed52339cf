// Dot products by vdpbf16ps: 32 pairs of bfloat16 into 16 float32 lanes. Element k of a step goes to lane k / 2; the
// instruction adds the odd product before the even one, rounds to nearest even and flushes subnormal numbers, as
// input and as result (Intel SDM, VDPBF16PS): part of the numeric profile "avx512-bf16".
#ifndef CONCLAVE_MOE_KERNELS_CPU_DOT_BF16_H_
#define CONCLAVE_MOE_KERNELS_CPU_DOT_BF16_H_

#include <immintrin.h>

#include <cstdint>

#include "moe/kernels/cpu/dot.h"

namespace conclave::CONCLAVE_ISA {

inline constexpr int kPairs = 32;

// The first `count` elements; the others read zero.
CONCLAVE_NEVER_INLINE inline __m512i LoadFirstHalves(const void* p, int count) {  // 0 < count < 32
  return _mm512_maskz_loadu_epi16((uint32_t{1} << count) - 1, p);
}
CONCLAVE_NEVER_INLINE inline __m512i LoadFirstBytes(const void* p, int count) {  // 0 < count < 64
  return _mm512_maskz_loadu_epi8((uint64_t{1} << count) - 1, p);
}
inline __m512i FirstHalves(__m512i halves, int count) {  // 0 < count < 32
  return _mm512_maskz_mov_epi16((uint32_t{1} << count) - 1, halves);
}

// What all ways of storing weights share: how x is read and a step accumulated.
struct PairDot {
  using X = uint16_t;
  using Register = __m512i;
  static constexpr int kPart = kPairs;

  static Register ReadX(const X* p) { return _mm512_loadu_si512(p); }
  static Register ReadXPartial(const X* p, int count) { return count == kPart ? ReadX(p) : LoadFirstHalves(p, count); }
  static V MultiplyAdd(V acc, Register x, Register w) { return _mm512_dpbf16_ps(acc, (__m512bh)x, (__m512bh)w); }
};

struct PairDotBf16 : PairDot {
  static constexpr int64_t Bytes(int64_t elements) { return 2 * elements; }
  static constexpr int kParts = 1;
  static void ReadWeight(const uint8_t* p, Register (&w)[kParts]) { w[0] = _mm512_loadu_si512(p); }
  static void ReadWeightPartial(const uint8_t* p, int count, Register (&w)[kParts]) {
    w[0] = LoadFirstHalves(p, count);
  }
  static void StoreWeight(X* p, const Register (&w)[kParts]) { _mm512_storeu_si512(p, w[0]); }
};

// Two vectors of float32, rounded to nearest even, as the lower and the upper half of a register. Subnormal numbers
// become zero, as they would in the dot product.
inline __m512i PackBf16(V low, V high) { return (__m512i)_mm512_cvtne2ps_pbh(high, low); }

struct PairDotF32 : PairDot {
  static constexpr int64_t Bytes(int64_t elements) { return 4 * elements; }
  static constexpr int kParts = 1;
  static void ReadWeight(const uint8_t* p, Register (&w)[kParts]) { w[0] = PackBf16(Load(p), Load(p + 64)); }
  static void ReadWeightPartial(const uint8_t* p, int count, Register (&w)[kParts]) {
    const V low = count >= kLanes ? Load(p) : LoadPartial(p, count);
    const V high = count > kLanes ? LoadPartial(p + 64, count - kLanes) : Zero();
    w[0] = PackBf16(low, high);
  }
  static void StoreWeight(X* p, const Register (&w)[kParts]) { _mm512_storeu_si512(p, w[0]); }
};

// The bfloat16 of every e4m3 magnitude, as tables of its upper and of its lower byte. All are exact: three bits of
// mantissa and exponents from -9 to 8. 0x7f is NaN.
struct F8Tables {
  alignas(64) uint8_t high[128];
  alignas(64) uint8_t low[128];
};
constexpr F8Tables MakeF8Tables() {
  F8Tables tables = {};
  for (int code = 0; code < 128; ++code) {
    const int exponent = code >> 3;
    const int mantissa = code & 7;
    int bits = ((exponent + 120) << 7) | (mantissa << 4);
    if (code == 127) bits = 0x7fc0;
    if (exponent == 0) {  // mantissa * 2^-9
      const int highest = mantissa >= 4 ? 2 : mantissa >= 2 ? 1 : 0;
      bits = mantissa == 0 ? 0 : ((118 + highest) << 7) | ((mantissa - (1 << highest)) << (7 - highest));
    }
    tables.high[code] = static_cast<uint8_t>(bits >> 8);
    tables.low[code] = static_cast<uint8_t>(bits & 0xff);
  }
  return tables;
}
inline constexpr F8Tables kF8Tables = MakeF8Tables();

struct PairDotF8 : PairDot {
  static constexpr int64_t Bytes(int64_t elements) { return elements; }
  static constexpr int kParts = 2;
  static void Decode(__m512i bytes, Register (&w)[kParts]) {
    // The halves of 128-bit lanes are what the two unpacks below take, so that quadwords go where these look.
    const __m512i order = _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7);
    const __m512i codes = _mm512_permutexvar_epi64(order, bytes);
    const __m512i magnitude_high =
        _mm512_permutex2var_epi8(_mm512_load_si512(kF8Tables.high), codes, _mm512_load_si512(kF8Tables.high + 64));
    const __m512i low =
        _mm512_permutex2var_epi8(_mm512_load_si512(kF8Tables.low), codes, _mm512_load_si512(kF8Tables.low + 64));
    // magnitude | (codes & 0x80)
    const __m512i high = _mm512_ternarylogic_epi32(magnitude_high, codes, _mm512_set1_epi8(-128), 0xf8);
    w[0] = _mm512_unpacklo_epi8(low, high);
    w[1] = _mm512_unpackhi_epi8(low, high);
  }
  static void ReadWeight(const uint8_t* p, Register (&w)[kParts]) { Decode(_mm512_loadu_si512(p), w); }
  static void ReadWeightPartial(const uint8_t* p, int count, Register (&w)[kParts]) {
    Decode(LoadFirstBytes(p, count), w);
  }
  static void StoreWeight(X* p, const Register (&w)[kParts]) {
    _mm512_storeu_si512(p, w[0]);
    _mm512_storeu_si512(p + kPart, w[1]);
  }
};

}  // namespace conclave::CONCLAVE_ISA

#endif  // CONCLAVE_MOE_KERNELS_CPU_DOT_BF16_H_
