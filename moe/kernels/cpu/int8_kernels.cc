// Products of 8-bit integers without tiles: one source, compiled once per instruction set, whose loops compilers make
// vectors of.
#include "moe/kernels/cpu/raw_int8.h"

#if defined(CONCLAVE_ISA_AVX2) && !defined(__AVX2__)
#define CONCLAVE_ISA_MISSING
#endif
#if defined(CONCLAVE_ISA_AVX512) && !defined(__AVX512F__)
#define CONCLAVE_ISA_MISSING
#endif

#if !defined(CONCLAVE_ISA_MISSING)
#include "moe/kernels/cpu/dot.h"
#include "moe/kernels/cpu/int8_pack.h"

namespace conclave::CONCLAVE_ISA {

// A group's codes as bytes, which are the values and 128 or 8.
inline void ReadGroup(const cpu::RawWeight& w, int64_t n, int64_t first, int64_t count, uint8_t* codes) {
  const uint8_t* row = w.data + n * w.row_bytes;
  if (w.element == cpu::Element::kInt8) {
    __builtin_memcpy(codes, row + first, count);
    return;
  }
  for (int64_t i = 0; i < (count + 1) / 2; ++i) {
    codes[2 * i] = row[first / 2 + i] & 0xf;
    codes[2 * i + 1] = row[first / 2 + i] >> 4;
  }
}

inline int32_t Dot(const uint8_t* w, const int8_t* x) {
  int32_t sum = 0;
  for (int i = 0; i < cpu::kInt8Group; ++i) sum += static_cast<int32_t>(w[i]) * static_cast<int32_t>(x[i]);
  return sum;
}

void LinearInt8(const cpu::RawInt8Linear& args) {
  const int64_t depth = args.x.depth, groups = cpu::Int8Groups(depth);
  const int32_t offset = args.w.element == cpu::Element::kInt8 ? 128 : 8;
  const cpu::RawScales& scales = args.w.scales;
  constexpr int64_t kRows = 64;  // rows of x whose sums one pass over a row of weights makes
  for (int64_t begin = 0; begin < args.x.rows; begin += kRows) {
    const int64_t rows = MinOf(kRows, args.x.rows - begin);
    for (int64_t n = args.n_begin; n < args.n_end; ++n) {
      float totals[kRows] = {};
      for (int64_t group = 0; group < groups; ++group) {
        const int64_t first = group * cpu::kInt8Group;
        uint8_t codes[cpu::kInt8Group] = {};
        ReadGroup(args.w, n, first, MinOf(cpu::kInt8Group, depth - first), codes);
        const float scale = ReadScale(scales, n * scales.stride + first / scales.block_cols);
        for (int64_t row = 0; row < rows; ++row) {
          const Int8Block x(args.x, 1, begin + row);
          const int32_t dot = Dot(codes, x.codes + first) - offset * x.sums[group];
          totals[row] = __builtin_fmaf(static_cast<float>(dot), x.scales[group] * scale, totals[row]);
        }
      }
      for (int64_t row = 0; row < rows; ++row) args.y[(begin + row) * args.y_stride + n] = totals[row];
    }
  }
}

}  // namespace conclave::CONCLAVE_ISA
#endif

namespace conclave::cpu {
#if defined(CONCLAVE_ISA_MISSING)
#define CONCLAVE_INT8_TABLE \
  { 1, nullptr, nullptr }
#else
#define CONCLAVE_INT8_TABLE \
  { 1, &CONCLAVE_ISA::PackInt8<1>, &CONCLAVE_ISA::LinearInt8 }
#endif

#if defined(CONCLAVE_ISA_AVX512)
extern constinit const RawInt8 kAvx512Int8 = CONCLAVE_INT8_TABLE;
#elif defined(CONCLAVE_ISA_AVX2)
extern constinit const RawInt8 kAvx2Int8 = CONCLAVE_INT8_TABLE;
#else
extern constinit const RawInt8 kScalarInt8 = CONCLAVE_INT8_TABLE;
#endif
}  // namespace conclave::cpu
