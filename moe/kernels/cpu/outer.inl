// Outer products: rows of coefficients times stored rows, summed over the stored rows in ascending order. Column j of
// the result is a chain of multiply-adds of its own, so that no tile or split can change it.
#ifndef CONCLAVE_MOE_KERNELS_CPU_OUTER_INL_
#define CONCLAVE_MOE_KERNELS_CPU_OUTER_INL_

#include <cstdint>

#include "moe/kernels/cpu/dot.h"
#include "moe/kernels/cpu/raw_kernels.h"
#include "moe/kernels/cpu/tile.inl"

namespace conclave::CONCLAVE_ISA {

inline constexpr int64_t kOuterDepth = 256;  // stored rows that one pass sums

// y[i][c] = carry[i] * y[i][c] + sum over n < depth of x[i][n] * rows[n][column + c] (* scales[n]).
struct OuterPass {
  const uint8_t* const* rows;  // [depth]: where stored rows begin
  const float* scales;         // [depth], or null
  int64_t depth;
  const float* x;  // [rows of y, depth]
  int64_t x_stride;
  const float* carry;  // [rows of y], or null: y starts from zero
  float* y;            // [rows of y, columns]
  int64_t y_stride;
};

// Columns [column, column + kVectors * kLanes); with kPartial, one vector of `count` columns.
template <class Source, int kRows, int kVectors, bool kPartial>
CONCLAVE_NEVER_INLINE void OuterTile(const OuterPass& pass, int64_t row, int64_t column, int count) {
  static_assert(!kPartial || kVectors == 1);
  V acc[kRows][kVectors];
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
    const float* y = pass.y + (row + i) * pass.y_stride + column;
#pragma GCC unroll 16
    for (int v = 0; v < kVectors; ++v) {
      acc[i][v] = Zero();
      if (pass.carry == nullptr) continue;
      const V old = kPartial ? LoadPartial(y, count) : Load(y + v * kLanes);
      acc[i][v] = Mul(old, Set(pass.carry[row + i]));
    }
  }
  const float* x = pass.x + row * pass.x_stride;
  for (int64_t n = 0; n < pass.depth; ++n) {
    const uint8_t* stored = pass.rows[n] + Source::Bytes(column);
    V coefficients[kRows];
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) coefficients[i] = Set(x[i * pass.x_stride + n]);
#pragma GCC unroll 16
    for (int v = 0; v < kVectors; ++v) {
      V element = kPartial ? Source::ReadPartial(stored, count) : Source::Read(stored + Source::Bytes(v * kLanes));
      if (pass.scales != nullptr) element = Mul(element, Set(pass.scales[n]));
#pragma GCC unroll 8
      for (int i = 0; i < kRows; ++i) acc[i][v] = Fma(coefficients[i], element, acc[i][v]);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
    float* y = pass.y + (row + i) * pass.y_stride + column;
#pragma GCC unroll 16
    for (int v = 0; v < kVectors; ++v) {
      if (kPartial) {
        StorePartial(y, acc[i][v], count);
      } else {
        Store(y + v * kLanes, acc[i][v]);
      }
    }
  }
}

template <class Source, int kRows>
inline void OuterRows(const OuterPass& pass, int64_t row, int64_t begin, int64_t end) {
  constexpr int kVectors = kOuterVectors / kRows;
  int64_t column = begin;
  for (; column + kVectors * kLanes <= end; column += kVectors * kLanes) {
    OuterTile<Source, kRows, kVectors, false>(pass, row, column, 0);
  }
  // A column of scale blocks may be half as wide: 128.
  constexpr int kHalf = kVectors > 1 ? kVectors / 2 : 1;
  for (; column + kHalf * kLanes <= end; column += kHalf * kLanes) {
    OuterTile<Source, kRows, kHalf, false>(pass, row, column, 0);
  }
  for (; column + kLanes <= end; column += kLanes) OuterTile<Source, kRows, 1, false>(pass, row, column, 0);
  if (column < end) OuterTile<Source, kRows, 1, true>(pass, row, column, static_cast<int>(end - column));
}

// All of y's `rows`, columns [begin, end): so many columns at a time as four rows take in registers, so that what the
// first rows read of the stored ones is still near for the others.
template <class Source>
inline void RunOuter(const OuterPass& pass, int64_t rows, int64_t begin, int64_t end) {
  const int64_t columns = rows > 4 ? kOuterVectors / 4 * kLanes : kOuterVectors * kLanes;
  for (int64_t column = begin; column < end; column += columns) {
    const int64_t last = MinOf(column + columns, end);
    int64_t row = 0;
    for (; row + 4 <= rows; row += 4) OuterRows<Source, 4>(pass, row, column, last);
    for (; row + 2 <= rows; row += 2) OuterRows<Source, 2>(pass, row, column, last);
    if (row < rows) OuterRows<Source, 1>(pass, row, column, last);
  }
}

// W the other way round, for columns inside one column of scale blocks.
template <class Source>
inline void TransposedColumns(const cpu::RawTransposed& args, bool round_x, int64_t begin, int64_t end) {
  constexpr int64_t kRowsAtOnce = 4;
  const cpu::RawScales& block_scales = args.w.scales;
  const uint8_t* rows[kOuterDepth];
  float scales[kOuterDepth];
  float x[kRowsAtOnce * kOuterDepth];
  const float keep[kRowsAtOnce] = {1.0f, 1.0f, 1.0f, 1.0f};
  for (int64_t n = 0; n == 0 || n < args.depth; n += kOuterDepth) {
    const int64_t depth = MinOf(kOuterDepth, args.depth - n);
    for (int64_t i = 0; i < depth; ++i) {
      rows[i] = args.w.data + (n + i) * args.w.row_bytes;
      if (block_scales.data == nullptr) continue;
      const int64_t scale_row = (n + i) / block_scales.block_rows;
      scales[i] = ReadScale(block_scales, scale_row * block_scales.stride + begin / block_scales.block_cols);
    }
    for (int64_t m = 0; m < args.rows; m += kRowsAtOnce) {
      const int64_t count = MinOf(kRowsAtOnce, args.rows - m);
      for (int64_t i = 0; i < count; ++i) {
        for (int64_t k = 0; k < depth; k += kLanes) {
          const int lanes = static_cast<int>(MinOf(kLanes, depth - k));
          const float* source = args.x + (m + i) * args.x_stride + n + k;
          const V v = lanes == kLanes ? Load(source) : LoadPartial(source, lanes);
          Store(x + i * kOuterDepth + k, round_x ? RoundToBf16(v) : v);
        }
      }
      const OuterPass pass = {rows,
                              block_scales.data ? scales : nullptr,
                              depth,
                              x,
                              kOuterDepth,
                              n == 0 ? nullptr : keep,
                              args.y + m * args.y_stride,
                              args.y_stride};
      RunOuter<Source>(pass, count, begin, end);
    }
  }
}

template <class Source>
inline void RunTransposed(const cpu::RawTransposed& args, bool round_x) {
  const cpu::RawScales& scales = args.w.scales;
  for (int64_t begin = args.k_begin; begin < args.k_end;) {
    int64_t end = args.k_end;
    if (scales.data != nullptr) end = MinOf(end, (begin / scales.block_cols + 1) * scales.block_cols);
    TransposedColumns<Source>(args, round_x, begin, end);
    begin = end;
  }
}

// Products in float32 in every profile; a bfloat16 profile rounds x, and float32 weights.
template <bool kRounds>
void LinearTransposed(const cpu::RawTransposed& args) {
  switch (args.w.element) {
    case cpu::Element::kF32:
      if constexpr (kRounds) return RunTransposed<SourceF32Rounded>(args, true);
      return RunTransposed<SourceF32>(args, false);
    case cpu::Element::kBf16:
      return RunTransposed<SourceBf16>(args, kRounds);
    case cpu::Element::kF16:
      return RunTransposed<SourceF16>(args, kRounds);
    case cpu::Element::kF8E4M3:
      return RunTransposed<SourceF8>(args, kRounds);
    case cpu::Element::kInt8:
      return RunTransposed<SourceInt8>(args, kRounds);
    case cpu::Element::kInt4:
      return RunTransposed<SourceInt4>(args, kRounds);
  }
}

}  // namespace conclave::CONCLAVE_ISA

#endif  // CONCLAVE_MOE_KERNELS_CPU_OUTER_INL_
