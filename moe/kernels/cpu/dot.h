// Dot products of rows of x with stored rows of weights: what one step along K does, for every way that weights are
// stored. A "dot" says how x is held (Dot::X), how many elements a step takes and how a step is accumulated.
#ifndef CONCLAVE_MOE_KERNELS_CPU_DOT_H_
#define CONCLAVE_MOE_KERNELS_CPU_DOT_H_

#include <cstdint>

#include "moe/kernels/cpu/raw_kernels.h"
#include "moe/kernels/cpu/vec.h"

namespace conclave::CONCLAVE_ISA {

// Stored elements, read as float32 lanes. Every reading is exact but SourceF32Rounded's.
struct SourceF32 {
  static constexpr int64_t Bytes(int64_t elements) { return 4 * elements; }
  static V Read(const uint8_t* p) { return Load(p); }
  static V ReadPartial(const uint8_t* p, int count) { return LoadPartial(p, count); }
};
// Float32 weights where the profile computes in bfloat16: rounded in registers, the stored bytes stay as they are.
struct SourceF32Rounded {
  static constexpr int64_t Bytes(int64_t elements) { return 4 * elements; }
  static V Read(const uint8_t* p) { return RoundToBf16(Load(p)); }
  static V ReadPartial(const uint8_t* p, int count) { return RoundToBf16(LoadPartial(p, count)); }
};
struct SourceBf16 {
  static constexpr int64_t Bytes(int64_t elements) { return 2 * elements; }
  static V Read(const uint8_t* p) { return LoadBf16(p); }
  static V ReadPartial(const uint8_t* p, int count) { return LoadBf16Partial(p, count); }
};
struct SourceF16 {
  static constexpr int64_t Bytes(int64_t elements) { return 2 * elements; }
  static V Read(const uint8_t* p) { return LoadF16(p); }
  static V ReadPartial(const uint8_t* p, int count) { return LoadF16Partial(p, count); }
};
struct SourceF8 {
  static constexpr int64_t Bytes(int64_t elements) { return elements; }
  static V Read(const uint8_t* p) { return LoadF8(p); }
  static V ReadPartial(const uint8_t* p, int count) { return LoadF8Partial(p, count); }
};

// Bytes u of value u - 128.
struct SourceInt8 {
  static constexpr int64_t Bytes(int64_t elements) { return elements; }
  static V Read(const uint8_t* p) { return LoadInt8(p); }
  static V ReadPartial(const uint8_t* p, int count) { return LoadInt8Partial(p, count); }
};
// Two to a byte, the lower half first, halves u of value u - 8. Reading begins at a whole byte.
struct SourceInt4 {
  static constexpr int64_t Bytes(int64_t elements) { return (elements + 1) / 2; }
  static V Read(const uint8_t* p) { return LoadInt4(p); }
  static V ReadPartial(const uint8_t* p, int count) { return LoadInt4Partial(p, count); }
};

// Products in float32. A step takes kLanes elements; element k goes to lane k % kLanes of its segment.
template <class Source>
struct FloatDot {
  using X = float;
  using Register = V;
  static constexpr int64_t Bytes(int64_t elements) { return Source::Bytes(elements); }
  static constexpr int kParts = 1;      // registers of x in one step
  static constexpr int kPart = kLanes;  // elements in one register

  static void ReadWeight(const uint8_t* p, Register (&w)[kParts]) { w[0] = Source::Read(p); }
  static void ReadWeightPartial(const uint8_t* p, int count, Register (&w)[kParts]) {
    w[0] = Source::ReadPartial(p, count);
  }
  static Register ReadX(const X* p) { return Load(p); }
  static Register ReadXPartial(const X* p, int count) { return count == kPart ? Load(p) : LoadPartial(p, count); }
  static V MultiplyAdd(V acc, Register x, Register w) { return Fma(x, w, acc); }
  static void StoreWeight(X* p, const Register (&w)[kParts]) { Store(p, w[0]); }
};

inline float ReadScale(const cpu::RawScales& scales, int64_t index) {
  float scale;
  if (scales.element == cpu::ScaleElement::kF32) {
    __builtin_memcpy(&scale, static_cast<const uint8_t*>(scales.data) + index * sizeof(float), sizeof(float));
    return scale;
  }
  uint32_t bits;
  if (scales.element == cpu::ScaleElement::kBf16) {
    uint16_t half;
    __builtin_memcpy(&half, static_cast<const uint8_t*>(scales.data) + index * sizeof(half), sizeof(half));
    bits = static_cast<uint32_t>(half) << 16;
  } else {
    // 2^(byte - 127): the byte is the exponent field, but for the subnormal 2^-127 and for NaN.
    const uint32_t exponent = static_cast<const uint8_t*>(scales.data)[index];
    bits = exponent == 0 ? 0x00400000u : exponent == 0xff ? 0x7fc00000u : exponent << 23;
  }
  __builtin_memcpy(&scale, &bits, sizeof(scale));
  return scale;
}

}  // namespace conclave::CONCLAVE_ISA

#endif  // CONCLAVE_MOE_KERNELS_CPU_DOT_H_
