// Products by matrix tiles (AMX): the tables that amx_kernels.cc provides. Plain pointers and sizes, for the reason
// that raw_kernels.h gives; cpu_kernels.cc checks and unpacks views.
#ifndef CONCLAVE_MOE_KERNELS_CPU_RAW_TILES_H_
#define CONCLAVE_MOE_KERNELS_CPU_RAW_TILES_H_

#include <cstdint>

#include "moe/kernels/cpu/raw_kernels.h"

namespace conclave::cpu {

// Packed rows are cut into blocks of up to 16 columns of a tile. A column is a row of x, or a part of one: where a
// table splits each value into three bfloat16, these go to three neighbouring columns, and a block has 15. A block
// holds [depth / 2, rounded up to 16][columns][2] bfloat16: pairs along the depth, as tiles want their second operand.
// Depths are filled up with zeros. The last block may hold fewer columns.
constexpr int64_t BlockColumns(int planes) { return 16 / planes * planes; }
inline constexpr int64_t kTileDepth = 32;

struct RawPacked {
  uint8_t* data;
  int64_t rows;
  int64_t depth;
};

// Packs rows [begin, end) of `out`; begin is a multiple of the rows of a block. Row i is row `indexes[i]` of x, or i.
struct RawPack {
  const void* x;
  bool x_is_bf16;  // else float32
  int64_t x_stride;
  const int32_t* indexes;  // null: in order
  int64_t begin;
  int64_t end;
  RawPacked out;
};

// y[m, n] = sum over k of x[m, k] * w[n, k], for n in [n_begin, n_end).
struct RawTileLinear {
  RawPacked x;
  RawWeight w;
  int64_t n_begin;
  int64_t n_end;
  float* y;  // column n of row m is y[m * y_stride + n]
  int64_t y_stride;
};

// out[m, n] = silu(gate[m, n]) * up[m, n], packed, for n in [n_begin, n_end); n_begin is a multiple of kTileDepth, and
// so is n_end, or else it is out.depth.
struct RawTileSwiglu {
  RawPacked x;
  RawWeight gate;
  RawWeight up;
  int64_t n_begin;
  int64_t n_end;
  RawPacked out;
};

struct RawTiles {
  int planes;  // bfloat16 columns of one row: 1 or 3
  void (*pack)(const RawPack& args);
  void (*linear)(const RawTileLinear& args);
  void (*swiglu)(const RawTileSwiglu& args);
};

// Null function pointers where the compiler could not build them.
extern const RawTiles kAmxBf16;    // x rounded to bfloat16
extern const RawTiles kAmxBf16x3;  // x as the sum of three bfloat16

constexpr int64_t RoundUp(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }
// Bytes of `rows` packed rows: proportional to their number.
constexpr int64_t PackedBytes(int planes, int64_t rows, int64_t depth) {
  return rows * planes * RoundUp(depth, kTileDepth) * 2;
}

}  // namespace conclave::cpu

#endif  // CONCLAVE_MOE_KERNELS_CPU_RAW_TILES_H_
