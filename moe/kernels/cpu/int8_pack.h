// Quantises rows of x: raw_int8.h has the formula and the layout. Loops that compilers make vectors of.
#ifndef CONCLAVE_MOE_KERNELS_CPU_INT8_PACK_H_
#define CONCLAVE_MOE_KERNELS_CPU_INT8_PACK_H_

#include <cstdint>

#include "moe/kernels/cpu/raw_int8.h"

namespace conclave::CONCLAVE_ISA {

template <class To, class From>
inline To BitCast(From value) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  __builtin_memcpy(&to, &value, sizeof(to));
  return to;
}

// Where the parts of a block of `columns` rows of x begin.
struct Int8Block {
  int8_t* codes;
  float* scales;
  int32_t* sums;
  int64_t columns;

  Int8Block(const cpu::RawInt8Rows& x, int64_t block, int64_t index) {
    const int64_t groups = cpu::Int8Groups(x.depth);
    columns = x.rows - index * block < block ? x.rows - index * block : block;
    uint8_t* data = x.data + index * block * cpu::Int8RowBytes(x.depth);
    codes = reinterpret_cast<int8_t*>(data);
    scales = reinterpret_cast<float*>(data + groups * cpu::kInt8Group * columns);
    sums = reinterpret_cast<int32_t*>(scales + groups * columns);
  }
};

// One group of a row: 32 codes, their scale and their sum. A group with a value that is not finite gets the scale NaN;
// one whose largest magnitude is below 1e-30 becomes zero.
inline void QuantiseGroup(const float* x, int8_t* codes, float& scale, int32_t& sum) {
  uint32_t largest_bits = 0;
  for (int i = 0; i < cpu::kInt8Group; ++i) {
    const uint32_t magnitude = BitCast<uint32_t>(x[i]) & 0x7fffffffu;
    largest_bits = magnitude > largest_bits ? magnitude : largest_bits;
  }
  const float largest = BitCast<float>(largest_bits);
  const bool finite = largest_bits < 0x7f800000u, small = largest < 1e-30f;
  scale = !finite ? BitCast<float>(0x7fc00000u) : small ? 0.0f : largest / 127.0f;
  const float factor = !finite || small ? 0.0f : 127.0f / largest;
  constexpr float kMagic = 0x1.8p23f;  // added, it leaves the nearest integer in the lower bits
  int32_t total = 0;
  for (int i = 0; i < cpu::kInt8Group; ++i) {
    const float value = finite ? x[i] * factor : 0.0f;
    const int32_t code = BitCast<int32_t>(value + kMagic) - BitCast<int32_t>(kMagic);
    codes[i] = static_cast<int8_t>(code);
    total += code;
  }
  sum = total;
}

template <int64_t kBlock>
void PackInt8(const cpu::RawInt8Pack& args) {
  for (int64_t row = args.begin; row < args.end; ++row) {
    const Int8Block out(args.out, kBlock, row / kBlock);
    const int64_t column = row % kBlock;
    const int64_t source = (args.indexes == nullptr ? row : args.indexes[row]) * args.x_stride;
    for (int64_t k = args.k_begin; k < args.k_end; k += cpu::kInt8Group) {
      const int64_t group = k / cpu::kInt8Group;
      const int64_t count = args.k_end - k < cpu::kInt8Group ? args.k_end - k : cpu::kInt8Group;
      float x[cpu::kInt8Group] = {};
      if (args.x_is_bf16) {
        const uint16_t* halves = static_cast<const uint16_t*>(args.x) + source + k - args.k_begin;
        for (int64_t i = 0; i < count; ++i) x[i] = BitCast<float>(static_cast<uint32_t>(halves[i]) << 16);
      } else {
        __builtin_memcpy(x, static_cast<const float*>(args.x) + source + k - args.k_begin, count * sizeof(float));
      }
      int8_t codes[cpu::kInt8Group];
      QuantiseGroup(x, codes, out.scales[group * out.columns + column], out.sums[group * out.columns + column]);
      for (int64_t i = 0; i < cpu::kInt8Group / 4; ++i) {
        __builtin_memcpy(out.codes + ((group * 8 + i) * out.columns + column) * 4, codes + i * 4, 4);
      }
    }
  }
}

}  // namespace conclave::CONCLAVE_ISA

#endif  // CONCLAVE_MOE_KERNELS_CPU_INT8_PACK_H_
