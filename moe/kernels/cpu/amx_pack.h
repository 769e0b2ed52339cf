// Rows of x as columns of tiles; raw_tiles.h has the layout.
#ifndef CONCLAVE_MOE_KERNELS_CPU_AMX_PACK_H_
#define CONCLAVE_MOE_KERNELS_CPU_AMX_PACK_H_

#include <cstdint>

#include "moe/kernels/cpu/amx_tile.h"
#include "moe/kernels/cpu/amx_weights.h"
#include "moe/kernels/cpu/raw_tiles.h"
#include "moe/kernels/cpu/transpose16.h"

namespace conclave::CONCLAVE_ISA {

// Packed rows, block by block.
struct PackedBlocks {
  const uint8_t* data;
  int64_t columns;  // of all blocks
  int64_t block_columns;
  int64_t block_bytes;

  PackedBlocks(const cpu::RawPacked& x, int planes)
      : data(x.data),
        columns(x.rows * planes),
        block_columns(cpu::BlockColumns(planes)),
        block_bytes(block_columns * cpu::RoundUp(x.depth, cpu::kTileDepth) * 2) {}
  int64_t blocks() const { return (columns + block_columns - 1) / block_columns; }
  int64_t ColumnsOf(int64_t block) const { return MinOf(block_columns, columns - block * block_columns); }
  // Elements 32 * step, … of a block.
  const uint8_t* At(int64_t block, int64_t step) const {
    return data + block * block_bytes + step * 16 * ColumnsOf(block) * 4;
  }
};

// The kPlanes columns of 32 elements of one row, of which those in `mask` exist: sixteen pairs each.
template <int kPlanes>
inline void ReadColumns(const cpu::RawPack& args, int64_t row, int64_t k, __mmask32 mask, __m512i* columns) {
  const int64_t source = args.indexes == nullptr ? row : args.indexes[row];
  if (args.x_is_bf16) {
    columns[0] = _mm512_maskz_loadu_epi16(mask, static_cast<const uint16_t*>(args.x) + source * args.x_stride + k);
    for (int plane = 1; plane < kPlanes; ++plane) columns[plane] = _mm512_setzero_si512();
    return;
  }
  const float* x = static_cast<const float*>(args.x) + source * args.x_stride + k;
  __m512 low, high;
  LoadFloats(reinterpret_cast<const uint8_t*>(x), mask, low, high);
  if constexpr (kPlanes == 1) {
    columns[0] = PackBf16(low, high);
  } else {
    Split<kPlanes>(low, high, columns);
  }
}

// One block: rows [row, row + columns / kPlanes).
template <int kPlanes>
inline void PackBlock(const cpu::RawPack& args, int64_t row, int64_t columns, uint8_t* out) {
  const __mmask16 column_mask = static_cast<__mmask16>((1u << columns) - 1);
  __m512i v[16];
  for (int64_t i = columns; i < 16; ++i) v[i] = _mm512_setzero_si512();
  for (int64_t k = 0; k < args.out.depth; k += 32) {
    const __mmask32 mask = Elements(0, args.out.depth - k);
    for (int64_t i = 0; i < columns; i += kPlanes) ReadColumns<kPlanes>(args, row + i / kPlanes, k, mask, v + i);
    if (columns == 1) {
      _mm512_storeu_si512(out, v[0]);
    } else {
      __m512i pairs[16];
      for (int i = 0; i < 16; ++i) pairs[i] = v[i];
      Transpose16(pairs);
      for (int i = 0; i < 16; ++i) _mm512_mask_storeu_epi32(out + i * columns * 4, column_mask, pairs[i]);
    }
    out += 16 * columns * 4;
  }
}

template <int kPlanes>
void PackRows(const cpu::RawPack& args) {
  constexpr int64_t kRowsOfBlock = cpu::BlockColumns(kPlanes) / kPlanes;
  const int64_t block_bytes = cpu::BlockColumns(kPlanes) * cpu::RoundUp(args.out.depth, cpu::kTileDepth) * 2;
  for (int64_t row = args.begin; row < args.end; row += kRowsOfBlock) {
    // The last block's width is the width that all readers expect: that of the whole, not of this call.
    const int64_t rows = MinOf(kRowsOfBlock, args.out.rows - row);
    PackBlock<kPlanes>(args, row, rows * kPlanes, args.out.data + row / kRowsOfBlock * block_bytes);
  }
}

// Zeroes the pairs past the depth, which products read too.
inline void ZeroPadding(const cpu::RawPacked& rows, int planes) {
  const int64_t first = (rows.depth + 1) / 2;
  const int64_t end = cpu::RoundUp(rows.depth, cpu::kTileDepth) / 2;
  if (first == end) return;
  const int64_t columns = rows.rows * planes;
  const int64_t block_columns = cpu::BlockColumns(planes);
  const int64_t block_bytes = block_columns * end * 2 * 2;
  for (int64_t block = 0; block * block_columns < columns; ++block) {
    const int64_t pair_bytes = MinOf(block_columns, columns - block * block_columns) * 4;
    __builtin_memset(rows.data + block * block_bytes + first * pair_bytes, 0, (end - first) * pair_bytes);
  }
}

}  // namespace conclave::CONCLAVE_ISA

#endif  // CONCLAVE_MOE_KERNELS_CPU_AMX_PACK_H_
