// Products of 8-bit integers: the functions that `--compute int8` has beside those of a bfloat16 table. Plain pointers
// and sizes, for the reason that raw_kernels.h gives.
//
// Rows of x are quantised by 32 columns: scale = largest magnitude / 127, q = x * (127 / largest) rounded to nearest
// even. A product is
//   y[m, n] = sum over groups g of 32 columns, ascending, of
//             float(sum over k in g of q[m, k] * w[n, k]) * (scale[m, g] * weight scale[n, g])
// whose inner sums are exact, and whose outer one is a chain of float32 multiply-adds from zero. So every instruction
// set has the same bits.
#ifndef CONCLAVE_MOE_KERNELS_CPU_RAW_INT8_H_
#define CONCLAVE_MOE_KERNELS_CPU_RAW_INT8_H_

#include <cstdint>

#include "moe/kernels/cpu/raw_kernels.h"

namespace conclave::cpu {

inline constexpr int64_t kInt8Group = 32;

constexpr int64_t Int8Groups(int64_t depth) { return (depth + kInt8Group - 1) / kInt8Group; }
// Of one quantised row: its integers (past the depth zeros), and a scale and the sum of the integers of each group.
constexpr int64_t Int8RowBytes(int64_t depth) { return Int8Groups(depth) * (kInt8Group + 4 + 4); }

// Quantised rows, in blocks of up to `block` rows of x, which are columns of tiles. A block is
//   int8 [groups * 8][columns][4], float32 scales [groups][columns], int32 sums [groups][columns].
struct RawInt8Rows {
  uint8_t* data;
  int64_t rows;
  int64_t depth;
};

// Quantises rows [begin, end) of `out`, of them columns [k_begin, k_end), which are whole groups or end at the depth.
// Row i is row `indexes[i]` of x, or i; its column k_begin is the first of x.
struct RawInt8Pack {
  const void* x;
  bool x_is_bf16;  // else float32
  int64_t x_stride;
  const int32_t* indexes;  // null: in order
  int64_t begin;
  int64_t end;
  int64_t k_begin;
  int64_t k_end;
  RawInt8Rows out;
};

struct RawInt8Linear {
  RawInt8Rows x;
  RawWeight w;  // kInt8 or kInt4
  int64_t n_begin;
  int64_t n_end;
  float* y;  // column n of row m is y[m * y_stride + n]
  int64_t y_stride;
};

// Whether weights of these scales can be taken: their blocks are whole groups.
constexpr bool Int8Takes(const RawWeight& w, int64_t depth) {
  return (w.element == Element::kInt8 || w.element == Element::kInt4) && w.scales.block_rows == 1 &&
         (w.scales.block_cols >= depth || w.scales.block_cols % kInt8Group == 0);
}

struct RawInt8 {
  int64_t block;
  void (*pack)(const RawInt8Pack& args);
  void (*linear)(const RawInt8Linear& args);
};

// Null function pointers where the compiler could not build the instruction set.
extern const RawInt8 kScalarInt8, kAvx2Int8, kAvx512Int8, kAmxInt8;

}  // namespace conclave::cpu

#endif  // CONCLAVE_MOE_KERNELS_CPU_RAW_INT8_H_
