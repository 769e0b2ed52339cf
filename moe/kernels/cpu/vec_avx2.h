// Eight lanes: AVX2, FMA and F16C. See vec.h for the vocabulary.
#ifndef CONCLAVE_MOE_KERNELS_CPU_VEC_AVX2_H_
#define CONCLAVE_MOE_KERNELS_CPU_VEC_AVX2_H_

#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace conclave::CONCLAVE_ISA {

using V = __m256;

inline constexpr int kLanes = 8;
inline constexpr int kTileRows = 2;
inline constexpr int kOuterVectors = 8;

inline V Set(float value) { return _mm256_set1_ps(value); }
inline V Zero() { return _mm256_setzero_ps(); }
inline V Load(const void* p) { return _mm256_loadu_ps(static_cast<const float*>(p)); }
inline __m256i FirstLanes(int count) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
CONCLAVE_NEVER_INLINE inline V LoadPartial(const void* p, int count) {
  return _mm256_maskload_ps(static_cast<const float*>(p), FirstLanes(count));
}
inline void Store(float* p, V v) { _mm256_storeu_ps(p, v); }
CONCLAVE_NEVER_INLINE inline void StorePartial(float* p, V v, int count) {
  _mm256_maskstore_ps(p, FirstLanes(count), v);
}

inline V Add(V a, V b) { return _mm256_add_ps(a, b); }
inline V Sub(V a, V b) { return _mm256_sub_ps(a, b); }
inline V Mul(V a, V b) { return _mm256_mul_ps(a, b); }
inline V Div(V a, V b) { return _mm256_div_ps(a, b); }
inline V Fma(V a, V b, V c) { return _mm256_fmadd_ps(a, b, c); }
inline V Max(V a, V b) { return _mm256_max_ps(a, b); }
inline V Min(V a, V b) { return _mm256_min_ps(a, b); }
inline V Round(V v) { return _mm256_round_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline V PowerOfTwo(V n) {
  const __m256i biased = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
  return _mm256_castsi256_ps(_mm256_slli_epi32(biased, 23));
}

// The upper halves of the lanes, rounded to nearest even, each in the low half of its lane; a NaN stays a NaN.
inline __m256i Bf16Bits(V v) {
  const __m256i bits = _mm256_castps_si256(v);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
  const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
  const __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
  return _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, is_nan), 16);
}
inline V RoundToBf16(V v) { return _mm256_castsi256_ps(_mm256_slli_epi32(Bf16Bits(v), 16)); }
inline __m128i PackHalves(__m256i v) {
  const __m256i packed = _mm256_packus_epi32(v, v);
  return _mm256_castsi256_si128(_mm256_permute4x64_epi64(packed, 0x08));
}
inline void StoreBf16(uint16_t* p, V v) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), PackHalves(Bf16Bits(v))); }
CONCLAVE_NEVER_INLINE inline void StoreBf16Partial(uint16_t* p, V v, int count) {
  uint16_t halves[kLanes];
  StoreBf16(halves, v);
  std::memcpy(p, halves, count * sizeof(uint16_t));
}

inline __m128i LoadHalves(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
CONCLAVE_NEVER_INLINE inline __m128i LoadHalvesPartial(const void* p, int count) {
  uint16_t halves[kLanes] = {};
  std::memcpy(halves, p, count * sizeof(uint16_t));
  return LoadHalves(halves);
}
inline V WidenBf16(__m128i halves) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16)); }
inline V LoadBf16(const void* p) { return WidenBf16(LoadHalves(p)); }
inline V LoadBf16Partial(const void* p, int count) { return WidenBf16(LoadHalvesPartial(p, count)); }
inline V LoadF16(const void* p) { return _mm256_cvtph_ps(LoadHalves(p)); }
inline V LoadF16Partial(const void* p, int count) { return _mm256_cvtph_ps(LoadHalvesPartial(p, count)); }

// e4m3 is half precision with a shorter mantissa and 2^8 in the exponent; 0x7f is its only NaN, and the only
// magnitude from which adding 0x80 (one step of the mantissa) reaches bit 14, the exponent's highest.
inline V WidenF8(__m128i bytes) {
  const __m128i halves = _mm_cvtepu8_epi16(bytes);
  const __m128i sign = _mm_slli_epi16(_mm_and_si128(halves, _mm_set1_epi16(0x80)), 8);
  const __m128i magnitude = _mm_slli_epi16(_mm_and_si128(halves, _mm_set1_epi16(0x7f)), 7);
  const __m128i nan = _mm_and_si128(_mm_add_epi16(magnitude, _mm_set1_epi16(0x80)), _mm_set1_epi16(0x4000));
  const __m128i f16 = _mm_or_si128(_mm_or_si128(magnitude, sign), nan);
  return _mm256_mul_ps(_mm256_cvtph_ps(f16), _mm256_set1_ps(256.0f));
}
inline V LoadF8(const void* p) { return WidenF8(_mm_loadl_epi64(static_cast<const __m128i*>(p))); }
CONCLAVE_NEVER_INLINE inline V LoadF8Partial(const void* p, int count) {
  uint64_t bytes = 0;
  std::memcpy(&bytes, p, count);
  return WidenF8(_mm_cvtsi64_si128(static_cast<int64_t>(bytes)));
}

inline V WidenInt8(__m128i bytes) {
  return _mm256_cvtepi32_ps(_mm256_sub_epi32(_mm256_cvtepu8_epi32(bytes), _mm256_set1_epi32(128)));
}
inline V LoadInt8(const void* p) { return WidenInt8(_mm_loadl_epi64(static_cast<const __m128i*>(p))); }
CONCLAVE_NEVER_INLINE inline V LoadInt8Partial(const void* p, int count) {
  uint64_t bytes = 0x8080808080808080u;  // zeros
  std::memcpy(&bytes, p, count);
  return WidenInt8(_mm_cvtsi64_si128(static_cast<int64_t>(bytes)));
}
// Eight halves, the lowest first.
inline V WidenInt4(uint32_t halves) {
  const __m256i all = _mm256_set1_epi32(static_cast<int>(halves));
  const __m256i one = _mm256_and_si256(_mm256_srlv_epi32(all, _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28)),
                                       _mm256_set1_epi32(0xf));
  return _mm256_cvtepi32_ps(_mm256_sub_epi32(one, _mm256_set1_epi32(8)));
}
inline V LoadInt4(const void* p) {
  uint32_t halves;
  std::memcpy(&halves, p, sizeof(halves));
  return WidenInt4(halves);
}
CONCLAVE_NEVER_INLINE inline V LoadInt4Partial(const void* p, int count) {
  uint32_t halves = 0;
  std::memcpy(&halves, p, (count + 1) / 2);
  const uint32_t kept = (uint32_t{1} << count * 4) - 1;  // count < 8
  return WidenInt4((halves & kept) | (0x88888888u & ~kept));
}

// Lane i with i + 4, then with i + 2, then with i + 1.
inline void Reduce4(V a, V b, V c, V d, float* out) {
  const __m128 a4 = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  const __m128 b4 = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
  const __m128 c4 = _mm_add_ps(_mm256_castps256_ps128(c), _mm256_extractf128_ps(c, 1));
  const __m128 d4 = _mm_add_ps(_mm256_castps256_ps128(d), _mm256_extractf128_ps(d, 1));
  const __m128 ab = _mm_add_ps(_mm_unpacklo_ps(a4, b4), _mm_unpackhi_ps(a4, b4));
  const __m128 cd = _mm_add_ps(_mm_unpacklo_ps(c4, d4), _mm_unpackhi_ps(c4, d4));
  _mm_storeu_ps(out, _mm_add_ps(_mm_movelh_ps(ab, cd), _mm_movehl_ps(cd, ab)));
}

}  // namespace conclave::CONCLAVE_ISA

#endif  // CONCLAVE_MOE_KERNELS_CPU_VEC_AVX2_H_
