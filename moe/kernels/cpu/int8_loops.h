// Products of 8-bit integers in loops that compilers make vectors of: for instruction sets without dot products of
// bytes, and for layouts of scales that are too rare to be written out for those with them. raw_int8.h has the formula.
#ifndef CONCLAVE_MOE_KERNELS_CPU_INT8_LOOPS_H_
#define CONCLAVE_MOE_KERNELS_CPU_INT8_LOOPS_H_

#include <cstdint>

#include "moe/kernels/cpu/dot.h"
#include "moe/kernels/cpu/int8_pack.inl"

namespace conclave::CONCLAVE_ISA {

// The values of a block of a row of weights; what lies past the depth is zero.
inline void ReadCodes(const cpu::RawWeight& w, int64_t n, int64_t first, int64_t count, int8_t* values) {
  const uint8_t* row = w.data + n * w.row_bytes;
  if (w.element == cpu::Element::kInt8) {
    for (int64_t i = 0; i < count; ++i) values[i] = static_cast<int8_t>(row[first + i] ^ 0x80);
    return;
  }
  for (int64_t i = 0; i < (count + 1) / 2; ++i) {
    values[2 * i] = static_cast<int8_t>((row[first / 2 + i] & 0xf) - 8);
    values[2 * i + 1] = static_cast<int8_t>((row[first / 2 + i] >> 4) - 8);
  }
}

template <int64_t kCount>
inline float DotOfIntegers(const int8_t* w, const int8_t* x) {
  int32_t sum = 0;
  for (int64_t i = 0; i < kCount; ++i) sum += static_cast<int16_t>(w[i]) * static_cast<int16_t>(x[i]);
  return static_cast<float>(sum);
}

CONCLAVE_NEVER_INLINE inline void LinearInt8Loops(const cpu::RawInt8Linear& args) {
  const int64_t depth = args.x.depth;
  const cpu::RawScales& stored = args.w.scales;
  const cpu::Int8Scaling scaling = cpu::ScalingOf(args.w, depth);
  constexpr int64_t kRows = 64;  // rows of x whose sums one pass over a row of weights makes
  for (int64_t begin = 0; begin < args.x.rows; begin += kRows) {
    const int64_t rows = MinOf(kRows, args.x.rows - begin);
    for (int64_t n = args.n_begin; n < args.n_end; ++n) {
      float totals[kRows] = {};
      for (int64_t first = 0; first < depth; first += cpu::kInt8Block) {
        const int64_t count = MinOf(cpu::kInt8Block, depth - first);
        alignas(64) int8_t values[cpu::kInt8Block] = {};
        ReadCodes(args.w, n, first, count, values);
        float scales[cpu::kGroupsOfBlock] = {};  // kBlock: the first
        for (int64_t i = 0; scaling != cpu::Int8Scaling::kRow && i < count; i += cpu::kInt8Group) {
          scales[i / cpu::kInt8Group] = ReadScale(stored, n * stored.stride + (first + i) / stored.block_cols);
        }
        for (int64_t row = 0; row < rows; ++row) {
          const Int8Row x(args.x, begin + row);
          const int8_t* codes = x.codes + first;
          float part = 0;
          if (scaling == cpu::Int8Scaling::kGroup) {
            for (int64_t group = 0; group < cpu::kGroupsOfBlock; ++group) {
              const int64_t at = group * cpu::kInt8Group;
              const float dot = DotOfIntegers<cpu::kInt8Group>(values + at, codes + at);
              part = __builtin_fmaf(dot, scales[group], part);
            }
          } else {
            const float dot = DotOfIntegers<cpu::kInt8Block>(values, codes);
            part = scaling == cpu::Int8Scaling::kRow ? dot : __builtin_fmaf(dot, scales[0], 0.0f);
          }
          totals[row] = __builtin_fmaf(part, x.scales[first / cpu::kInt8Block], totals[row]);
        }
      }
      const float scale = scaling == cpu::Int8Scaling::kRow ? ReadScale(stored, n * stored.stride) : 1.0f;
      for (int64_t row = 0; row < rows; ++row) args.y[(begin + row) * args.y_stride + n] = totals[row] * scale;
    }
  }
}

}  // namespace conclave::CONCLAVE_ISA

#endif  // CONCLAVE_MOE_KERNELS_CPU_INT8_LOOPS_H_
