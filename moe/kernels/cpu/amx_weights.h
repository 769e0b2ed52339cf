// Tiles of weights: as they lie in memory where they are bfloat16, else decoded, 16 rows by 32 elements at a time.
// A value that is no bfloat16 becomes the sum of several (kPlanes).
#ifndef CONCLAVE_MOE_KERNELS_CPU_AMX_WEIGHTS_H_
#define CONCLAVE_MOE_KERNELS_CPU_AMX_WEIGHTS_H_

#include <immintrin.h>

#include <cstdint>

#include "moe/kernels/cpu/amx_codes.h"
#include "moe/kernels/cpu/amx_f8.h"
#include "moe/kernels/cpu/amx_tile.h"
#include "moe/kernels/cpu/dot_bf16.h"

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
// not empty); the others become zero.
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
