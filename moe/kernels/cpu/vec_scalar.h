// Four lanes in the compilers' portable vectors: runs everywhere. No fused multiply-add, so that every
// architecture gives the same bits. See vec.h for the vocabulary.
#ifndef CONCLAVE_MOE_KERNELS_CPU_VEC_SCALAR_H_
#define CONCLAVE_MOE_KERNELS_CPU_VEC_SCALAR_H_

#include <cstdint>
#include <cstring>

namespace conclave::CONCLAVE_ISA {

typedef float V __attribute__((vector_size(16)));
typedef int32_t VInt __attribute__((vector_size(16)));
typedef uint32_t VBits __attribute__((vector_size(16)));

inline constexpr int kLanes = 4;
inline constexpr int kTileRows = 2;
inline constexpr int kOuterVectors = 4;

inline V Set(float value) { return V{value, value, value, value}; }
inline V Zero() { return Set(0.0f); }
inline V Load(const void* p) {
  V v;
  std::memcpy(&v, p, sizeof(v));
  return v;
}
inline V LoadPartial(const void* p, int count) {
  V v = Zero();
  std::memcpy(&v, p, count * sizeof(float));
  return v;
}
inline void Store(float* p, V v) { std::memcpy(p, &v, sizeof(v)); }
inline void StorePartial(float* p, V v, int count) { std::memcpy(p, &v, count * sizeof(float)); }

inline V Add(V a, V b) { return a + b; }
inline V Sub(V a, V b) { return a - b; }
inline V Mul(V a, V b) { return a * b; }
inline V Div(V a, V b) { return a / b; }
inline V Fma(V a, V b, V c) { return a * b + c; }  // two roundings: the build forbids contraction
inline V Max(V a, V b) {
  const VInt take = a > b;
  return reinterpret_cast<V>((take & reinterpret_cast<VInt>(a)) | (~take & reinterpret_cast<VInt>(b)));
}
inline V Min(V a, V b) {
  const VInt take = a < b;
  return reinterpret_cast<V>((take & reinterpret_cast<VInt>(a)) | (~take & reinterpret_cast<VInt>(b)));
}
// To the nearest integer, ties to even. Adding 1.5 * 2^23 leaves no fraction bits. REQUIRES: |v| < 2^22
inline V Round(V v) {
  const V magic = Set(12582912.0f);
  return (v + magic) - magic;
}
// 2^n for whole n in [-126, 127].
inline V PowerOfTwo(V n) {
  VInt bits;
  for (int i = 0; i < kLanes; ++i) bits[i] = n[i] >= -126.0f && n[i] <= 127.0f ? static_cast<int32_t>(n[i]) + 127 : 127;
  return reinterpret_cast<V>(bits << 23);
}

// The upper halves of the lanes, rounded to nearest even; a NaN stays a NaN.
inline VBits Bf16Bits(V v) {
  const VBits bits = reinterpret_cast<VBits>(v);
  const VBits is_nan = reinterpret_cast<VBits>(v != v);
  const VBits rounded = bits + 0x7fffu + ((bits >> 16) & 1u);
  return ((is_nan & (bits | 0x400000u)) | (~is_nan & rounded)) >> 16;
}
inline V RoundToBf16(V v) { return reinterpret_cast<V>(Bf16Bits(v) << 16); }

inline V LoadBf16Partial(const void* p, int count) {
  uint16_t halves[kLanes] = {};
  std::memcpy(halves, p, count * sizeof(uint16_t));
  const VInt bits = {halves[0], halves[1], halves[2], halves[3]};
  return reinterpret_cast<V>(bits << 16);
}
inline V LoadBf16(const void* p) { return LoadBf16Partial(p, kLanes); }
inline void StoreBf16Partial(uint16_t* p, V v, int count) {
  const VBits bits = Bf16Bits(v);
  for (int i = 0; i < count; ++i) p[i] = static_cast<uint16_t>(bits[i]);
}
inline void StoreBf16(uint16_t* p, V v) { StoreBf16Partial(p, v, kLanes); }

// Half precision to float32: shifted into place, the exponent is 112 too small, which one exact multiplication
// mends for normal and subnormal numbers alike; infinities and NaNs get the largest exponent.
inline V WidenF16(VInt bits) {
  const VInt magnitude = (bits & 0x7fff) << 13;
  const V scaled = reinterpret_cast<V>(magnitude) * Set(0x1p112f);
  const VInt special = magnitude >= (0x7c00 << 13);
  const VInt value = (reinterpret_cast<VInt>(scaled) & ~special) | ((magnitude | 0x7f800000) & special);
  return reinterpret_cast<V>(value | ((bits & 0x8000) << 16));
}
inline V LoadF16Partial(const void* p, int count) {
  uint16_t halves[kLanes] = {};
  std::memcpy(halves, p, count * sizeof(uint16_t));
  return WidenF16(VInt{halves[0], halves[1], halves[2], halves[3]});
}
inline V LoadF16(const void* p) { return LoadF16Partial(p, kLanes); }

// e4m3 is half precision with a shorter mantissa and 2^8 in the exponent; 0x7f is its only NaN.
inline V LoadF8Partial(const void* p, int count) {
  uint8_t bytes[kLanes] = {};
  std::memcpy(bytes, p, count);
  const VInt bits = {bytes[0], bytes[1], bytes[2], bytes[3]};
  const VInt magnitude = (bits & 0x7f) << 20;
  const V scaled = reinterpret_cast<V>(magnitude) * Set(0x1p120f);
  const VInt special = (bits & 0x7f) == 0x7f;
  const VInt value = (reinterpret_cast<VInt>(scaled) & ~special) | (0x7fc00000 & special);
  return reinterpret_cast<V>(value | ((bits & 0x80) << 24));
}
inline V LoadF8(const void* p) { return LoadF8Partial(p, kLanes); }

inline V LoadInt8Partial(const void* p, int count) {
  const auto* bytes = static_cast<const uint8_t*>(p);
  V v = Zero();
  for (int i = 0; i < count; ++i) v[i] = static_cast<float>(bytes[i] - 128);
  return v;
}
inline V LoadInt8(const void* p) { return LoadInt8Partial(p, kLanes); }
inline V LoadInt4Partial(const void* p, int count) {
  const auto* bytes = static_cast<const uint8_t*>(p);
  V v = Zero();
  for (int i = 0; i < count; ++i) v[i] = static_cast<float>((bytes[i / 2] >> (i % 2 * 4) & 0xf) - 8);
  return v;
}
inline V LoadInt4(const void* p) { return LoadInt4Partial(p, kLanes); }

inline void Reduce4(V a, V b, V c, V d, float* out) {
  const V sums[4] = {a, b, c, d};
  for (int i = 0; i < 4; ++i) out[i] = (sums[i][0] + sums[i][2]) + (sums[i][1] + sums[i][3]);
}

}  // namespace conclave::CONCLAVE_ISA

#endif  // CONCLAVE_MOE_KERNELS_CPU_VEC_SCALAR_H_
