// Products of 8-bit integers: the functions that `--compute int8` has beside those of another table. Plain pointers
// and sizes, for the reason that raw_kernels.h gives.
//
// Rows of x are quantised by blocks of 128 columns: scale = largest magnitude / 127, q = x * (127 / largest) rounded to
// nearest even. With a scale for G columns of weights, where G is a multiple of 32, a product is
//   y[m, n] = sum over blocks b, ascending, of part[m, n, b] * scale[m, b]
//   part[m, n, b] = sum over the groups g of b, ascending, of float(dot[m, n, g]) * weight scale[n, g]
//   dot[m, n, g] = sum over k in g of q[m, k] * w[n, k]
// where a group is 128 columns if G is a multiple of 128, else 32. Dots are exact; both sums are chains of float32
// multiply-adds from zero. With one scale for a row of weights, part is float(dot) over the block and y is multiplied
// by the scale at last. So every instruction set, and every way to walk rows, has the same bits.
#ifndef CONCLAVE_MOE_KERNELS_CPU_RAW_INT8_H_
#define CONCLAVE_MOE_KERNELS_CPU_RAW_INT8_H_

#include <cstdint>

#include "moe/kernels/cpu/raw_kernels.h"

namespace conclave::cpu {

inline constexpr int64_t kInt8Block = 128;  // columns of x that share a scale
inline constexpr int64_t kInt8Group = 32;   // the least that share a scale of weights
inline constexpr int64_t kGroupsOfBlock = kInt8Block / kInt8Group;
inline constexpr int64_t kInt8TileRows = 16;  // rows of x that share a tile

constexpr int64_t Int8Blocks(int64_t depth) { return (depth + kInt8Block - 1) / kInt8Block; }
// Of a block of a quantised row: its integers twice, its scale, and its sums.
inline constexpr int64_t kInt8BlockBytes = 2 * kInt8Block + 4 + 4 * kGroupsOfBlock + 4;
// Of a quantised row: whole lines.
constexpr int64_t Int8RowBytes(int64_t depth) { return (Int8Blocks(depth) * kInt8BlockBytes + 63) / 64 * 64; }

// How quantised rows lie. Integers past the depth are zeros.
// - Up to RawInt8::plain_rows_max of them lie one after the other, each
//     int8 [blocks][128]; int8 [blocks][64 of even columns, 64 of odd ones]; float32 scales [blocks];
//     int32 [blocks][4], -8 * the sum of each group's integers; int32 [blocks], -128 * the sum of the block's.
// - More are columns of tiles, 16 (at the end fewer) to a tile, which is
//     int8 [blocks * 32][columns][4]; float32 scales [blocks][columns]; int32 [blocks][columns], -128 * sums.
struct RawInt8Rows {
  uint8_t* data;
  int64_t rows;
  int64_t depth;
};

// Quantises rows [begin, end) of `out`, of them columns [k_begin, k_end), which are whole blocks or end at the depth.
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
  RawWeight w;  // kInt8 or kInt4, whose scales are for whole groups of 32 columns
  int64_t n_begin;
  int64_t n_end;
  float* y;  // column n of row m is y[m * y_stride + n]
  int64_t y_stride;
};

// Which columns of weights share a scale, as the formula sees it.
enum class Int8Scaling : uint8_t { kRow, kBlock, kGroup };
constexpr Int8Scaling ScalingOf(const RawWeight& w, int64_t depth) {
  if (w.scales.block_cols >= depth) return Int8Scaling::kRow;
  return w.scales.block_cols % kInt8Block == 0 ? Int8Scaling::kBlock : Int8Scaling::kGroup;
}

struct RawInt8 {
  int64_t plain_rows_max;
  void (*pack)(const RawInt8Pack& args);
  void (*linear)(const RawInt8Linear& args);
};

// Null function pointers where the compiler could not build the instruction set.
extern const RawInt8 kScalarInt8, kAvx2Int8, kAvx512Int8, kAvx512VnniInt8, kAmxInt8;

}  // namespace conclave::cpu

#endif  // CONCLAVE_MOE_KERNELS_CPU_RAW_INT8_H_
