// Sixteen lanes: AVX-512 F, BW, DQ, VL. See vec.h for the vocabulary. vec_dot_bf16.h adds the bfloat16 dot product.
#ifndef CONCLAVE_MOE_KERNELS_CPU_VEC_AVX512_H_
#define CONCLAVE_MOE_KERNELS_CPU_VEC_AVX512_H_

#include <immintrin.h>

#include <cstdint>

namespace conclave::CONCLAVE_ISA {

using V = __m512;

inline constexpr int kLanes = 16;
inline constexpr int kTileRows = 6;
inline constexpr int kOuterVectors = 16;

inline V Set(float value) { return _mm512_set1_ps(value); }
inline V Zero() { return _mm512_setzero_ps(); }
inline __mmask16 FirstLanes(int count) { return static_cast<__mmask16>((1u << count) - 1); }
inline V Load(const void* p) { return _mm512_loadu_ps(p); }
CONCLAVE_NEVER_INLINE inline V LoadPartial(const void* p, int count) {
  return _mm512_maskz_loadu_ps(FirstLanes(count), p);
}
inline void Store(float* p, V v) { _mm512_storeu_ps(p, v); }
CONCLAVE_NEVER_INLINE inline void StorePartial(float* p, V v, int count) {
  _mm512_mask_storeu_ps(p, FirstLanes(count), v);
}

inline V Add(V a, V b) { return _mm512_add_ps(a, b); }
inline V Sub(V a, V b) { return _mm512_sub_ps(a, b); }
inline V Mul(V a, V b) { return _mm512_mul_ps(a, b); }
inline V Div(V a, V b) { return _mm512_div_ps(a, b); }
inline V Fma(V a, V b, V c) { return _mm512_fmadd_ps(a, b, c); }
inline V Max(V a, V b) { return _mm512_max_ps(a, b); }
inline V Min(V a, V b) { return _mm512_min_ps(a, b); }
inline V Round(V v) { return _mm512_roundscale_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline V PowerOfTwo(V n) {
  const __m512i biased = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
  return _mm512_castsi512_ps(_mm512_slli_epi32(biased, 23));
}

// The upper halves of the lanes, rounded to nearest even, each in the low half of its lane; a NaN stays a NaN.
inline __m512i Bf16Bits(V v) {
  const __m512i bits = _mm512_castps_si512(v);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
  const __mmask16 is_nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
  return _mm512_srli_epi32(_mm512_mask_or_epi32(rounded, is_nan, bits, _mm512_set1_epi32(0x400000)), 16);
}
inline V RoundToBf16(V v) { return _mm512_castsi512_ps(_mm512_slli_epi32(Bf16Bits(v), 16)); }
// Rounded halves, packed. Where the CPU has the instruction it is the CPU's rounding, which flushes subnormal numbers
// to zero: what the dot product would do with them, too.
#if defined(CONCLAVE_ISA_DOT_BF16)
inline __m256i PackedBf16(V v) { return (__m256i)_mm512_cvtneps_pbh(v); }
#else
inline __m256i PackedBf16(V v) { return _mm512_cvtepi32_epi16(Bf16Bits(v)); }
#endif
inline void StoreBf16(uint16_t* p, V v) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), PackedBf16(v)); }
CONCLAVE_NEVER_INLINE inline void StoreBf16Partial(uint16_t* p, V v, int count) {
  _mm256_mask_storeu_epi16(p, FirstLanes(count), PackedBf16(v));
}

inline __m256i LoadHalves(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
CONCLAVE_NEVER_INLINE inline __m256i LoadHalvesPartial(const void* p, int count) {
  return _mm256_maskz_loadu_epi16(FirstLanes(count), p);
}
inline V WidenBf16(__m256i halves) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16)); }
inline V LoadBf16(const void* p) { return WidenBf16(LoadHalves(p)); }
inline V LoadBf16Partial(const void* p, int count) { return WidenBf16(LoadHalvesPartial(p, count)); }
inline V LoadF16(const void* p) { return _mm512_cvtph_ps(LoadHalves(p)); }
inline V LoadF16Partial(const void* p, int count) { return _mm512_cvtph_ps(LoadHalvesPartial(p, count)); }

// e4m3 is half precision with a shorter mantissa and 2^8 in the exponent; 0x7f is its only NaN, and the only
// magnitude from which adding 0x80 (one step of the mantissa) reaches bit 14, the exponent's highest.
inline V WidenF8(__m128i bytes) {
  const __m256i halves = _mm256_cvtepu8_epi16(bytes);
  const __m256i sign = _mm256_slli_epi16(_mm256_and_si256(halves, _mm256_set1_epi16(0x80)), 8);
  const __m256i magnitude = _mm256_slli_epi16(_mm256_and_si256(halves, _mm256_set1_epi16(0x7f)), 7);
  const __m256i nan = _mm256_and_si256(_mm256_add_epi16(magnitude, _mm256_set1_epi16(0x80)), _mm256_set1_epi16(0x4000));
  const __m256i f16 = _mm256_or_si256(_mm256_or_si256(magnitude, sign), nan);
  return _mm512_mul_ps(_mm512_cvtph_ps(f16), _mm512_set1_ps(256.0f));
}
inline V LoadF8(const void* p) { return WidenF8(_mm_loadu_si128(static_cast<const __m128i*>(p))); }
CONCLAVE_NEVER_INLINE inline V LoadF8Partial(const void* p, int count) {
  return WidenF8(_mm_maskz_loadu_epi8(FirstLanes(count), p));
}

inline V WidenInt8(__m128i bytes) {
  return _mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_cvtepu8_epi32(bytes), _mm512_set1_epi32(128)));
}
inline V LoadInt8(const void* p) { return WidenInt8(_mm_loadu_si128(static_cast<const __m128i*>(p))); }
CONCLAVE_NEVER_INLINE inline V LoadInt8Partial(const void* p, int count) {
  return _mm512_maskz_mov_ps(FirstLanes(count), WidenInt8(_mm_maskz_loadu_epi8(FirstLanes(count), p)));
}
// The values of sixteen halves, the lowest first, in a table that a permutation looks up.
inline V WidenInt4(__m128i bytes) {
  const __m512i wide = _mm512_cvtepu8_epi32(_mm_unpacklo_epi8(bytes, _mm_srli_epi16(bytes, 4)));
  const V values = _mm512_setr_ps(-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7);
  return _mm512_permutexvar_ps(wide, values);  // by the lowest four bits
}
inline V LoadInt4(const void* p) { return WidenInt4(_mm_loadl_epi64(static_cast<const __m128i*>(p))); }
CONCLAVE_NEVER_INLINE inline V LoadInt4Partial(const void* p, int count) {
  const __mmask16 bytes = FirstLanes((count + 1) / 2);
  return _mm512_maskz_mov_ps(FirstLanes(count), WidenInt4(_mm_maskz_loadu_epi8(bytes, p)));
}

// Lane i with i + 8, then with i + 4, then with i + 2, then with i + 1.
inline void Reduce4(V a, V b, V c, V d, float* out) {
  const V ab = _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
  const V cd = _mm512_add_ps(_mm512_shuffle_f32x4(c, d, 0x44), _mm512_shuffle_f32x4(c, d, 0xee));
  const V quads = _mm512_add_ps(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xdd));
  const V pairs = _mm512_add_ps(quads, _mm512_permute_ps(quads, 0x4e));
  const V sums = _mm512_add_ps(pairs, _mm512_permute_ps(pairs, 0xb1));
  const __m512i first_of_quad = _mm512_setr_epi32(0, 4, 8, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
  _mm_storeu_ps(out, _mm512_castps512_ps128(_mm512_permutexvar_ps(first_of_quad, sums)));
}

}  // namespace conclave::CONCLAVE_ISA

#endif  // CONCLAVE_MOE_KERNELS_CPU_VEC_AVX512_H_
