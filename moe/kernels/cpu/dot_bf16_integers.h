// dot_bf16.h for packed integers, which are exact as bfloat16.
#ifndef CONCLAVE_MOE_KERNELS_CPU_DOT_BF16_INTEGERS_H_
#define CONCLAVE_MOE_KERNELS_CPU_DOT_BF16_INTEGERS_H_

#include <immintrin.h>

#include <cstdint>

#include "moe/kernels/cpu/dot_bf16.h"

namespace conclave::CONCLAVE_ISA {

struct PairDotInt8 : PairDot {
  static constexpr int64_t Bytes(int64_t elements) { return elements; }
  static constexpr int kParts = 1;
  // 32 bytes u become u - 128.
  static __m512i Decode(__m256i bytes) {
    const __m256i values = _mm256_xor_si256(bytes, _mm256_set1_epi8(-128));
    const V low = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm256_castsi256_si128(values)));
    const V high = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm256_extracti128_si256(values, 1)));
    return PackBf16(low, high);
  }
  static void ReadWeight(const uint8_t* p, Register (&w)[kParts]) { w[0] = Decode(LoadHalves(p)); }
  static void ReadWeightPartial(const uint8_t* p, int count, Register (&w)[kParts]) {
    w[0] = FirstHalves(Decode(_mm512_castsi512_si256(LoadFirstBytes(p, count))), count);
  }
  static void StoreWeight(X* p, const Register (&w)[kParts]) { _mm512_storeu_si512(p, w[0]); }
};

// The bfloat16 of -8 to 7, twice: whatever the fifth bit of an index is.
alignas(64) inline constexpr uint16_t kInt4Values[32] = {
    0xc100, 0xc0e0, 0xc0c0, 0xc0a0, 0xc080, 0xc040, 0xc000, 0xbf80, 0x0000, 0x3f80, 0x4000,
    0x4040, 0x4080, 0x40a0, 0x40c0, 0x40e0, 0xc100, 0xc0e0, 0xc0c0, 0xc0a0, 0xc080, 0xc040,
    0xc000, 0xbf80, 0x0000, 0x3f80, 0x4000, 0x4040, 0x4080, 0x40a0, 0x40c0, 0x40e0};

struct PairDotInt4 : PairDot {
  static constexpr int64_t Bytes(int64_t elements) { return (elements + 1) / 2; }
  static constexpr int kParts = 1;
  // A byte becomes a pair: its lower half is the index in the lower word, its upper half in the upper word.
  static __m512i Decode(__m128i bytes) {
    const __m512i wide = _mm512_cvtepu8_epi32(bytes);
    const __m512i indexes = _mm512_or_si512(wide, _mm512_slli_epi32(wide, 12));
    return _mm512_permutexvar_epi16(indexes, _mm512_load_si512(kInt4Values));
  }
  static void ReadWeight(const uint8_t* p, Register (&w)[kParts]) {
    w[0] = Decode(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static void ReadWeightPartial(const uint8_t* p, int count, Register (&w)[kParts]) {
    w[0] = FirstHalves(Decode(_mm512_castsi512_si128(LoadFirstBytes(p, (count + 1) / 2))), count);
  }
  static void StoreWeight(X* p, const Register (&w)[kParts]) { _mm512_storeu_si512(p, w[0]); }
};

}  // namespace conclave::CONCLAVE_ISA

#endif  // CONCLAVE_MOE_KERNELS_CPU_DOT_BF16_INTEGERS_H_
