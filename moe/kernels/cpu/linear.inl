// The walk of y = x · Wᵀ over tiles. What is chosen here (panels of K, blocks of rows, whether a panel of weights is
// decoded once for many rows) is for caches alone: no choice changes the order of one dot product; see tile.inl.
#ifndef CONCLAVE_MOE_KERNELS_CPU_LINEAR_INL_
#define CONCLAVE_MOE_KERNELS_CPU_LINEAR_INL_

#include <cstdint>
#include <type_traits>

#include "moe/kernels/cpu/elementwise.h"
#include "moe/kernels/cpu/raw_kernels.h"
#include "moe/kernels/cpu/tile.inl"

namespace conclave::CONCLAVE_ISA {

inline constexpr int64_t kRowBlock = 48;         // rows of x that stay in the second-level cache
inline constexpr int64_t kRowsInFirstCache = 6;  // of them, rows that stay in the first while columns pass
inline constexpr int64_t kColumnGroup = 64;      // columns whose sums are carried from panel to panel
inline constexpr int64_t kPanelBytes = 4096;     // of one row of x, or of one decoded row of weights
// Between rows of a packed panel: rows end in whole registers, and do not start at addresses equal modulo 4096, which
// would share the few lines of one set of the first-level cache.
inline constexpr int64_t kPanelStrideBytes = kPanelBytes + 192;

// Elements [begin, begin + length) of a row of x as float lanes want them; `round` goes to bfloat16 and back.
inline void ConvertX(const cpu::RawLinear& args, int64_t row, int64_t begin, int64_t length, bool round, float* out) {
  const int64_t offset = row * args.x_stride + begin;
  const float* floats = static_cast<const float*>(args.x) + offset;
  const uint16_t* halves = static_cast<const uint16_t*>(args.x) + offset;
  ForLanes(length, [&](int64_t k, int count) {
    V v;
    if (args.x_is_bf16) {
      v = count == kLanes ? LoadBf16(halves + k) : LoadBf16Partial(halves + k, count);
    } else {
      v = LoadSome(floats + k, count);
      if (round) v = RoundToBf16(v);
    }
    StoreSome(out + k, v, count);
  });
}

inline void ConvertX(const cpu::RawLinear& args, int64_t row, int64_t begin, int64_t length, bool, uint16_t* out) {
  const int64_t offset = row * args.x_stride + begin;
  if (args.x_is_bf16) {
    __builtin_memcpy(out, static_cast<const uint16_t*>(args.x) + offset, length * sizeof(uint16_t));
  } else {
    ToBf16(static_cast<const float*>(args.x) + offset, length, out);
  }
}

template <class Direct, class Decoded, bool kScaled>
class LinearRun {
 public:
  // `round_x`: rounds x to bfloat16 although products are in float32.
  LinearRun(const cpu::RawLinear& args, bool round_x)
      : args_(args),
        round_x_(round_x),
        converts_(std::is_same_v<X, float> ? round_x || args.x_is_bf16 : !args.x_is_bf16) {}

  void Run() {
    for (row_begin_ = 0; row_begin_ < args_.rows; row_begin_ += rows_) {
      rows_ = MinOf(args_.rows - row_begin_, kRowBlock);
      few_rows_ = rows_ <= kFewRows;
      packed_begin_ = -1;
      for (int64_t n = args_.n_begin; n < args_.n_end; n += kColumnGroup) {
        RunGroup(n, MinOf(n + kColumnGroup, args_.n_end));
      }
    }
  }

 private:
  using X = typename Direct::X;
  static constexpr bool kDecodes = !std::is_same_v<Direct, Decoded>;
  // Up to so many rows, weights are read as they are stored, again by every tile of rows, and x as it lies where it
  // needs no conversion. More rows are worth packing x, and decoding weights once for all of them.
  static constexpr int64_t kFewRows = Direct::Bytes(2) <= 2 ? kTileRows : 16;
  static constexpr int64_t kPanel = kPanelBytes / sizeof(X);
  static constexpr int64_t kPanelStride = kPanelStrideBytes / sizeof(X);

  // Four columns of a group. `w` points to the panel's first element of each.
  struct Columns {
    int64_t n;
    int count;  // missing columns at the right edge are copies of the last, and dropped
    const uint8_t* w[kTileCols];
    Panel panel;
    V* totals;  // [kRowBlock][kTileCols]
  };

  int64_t PanelEnd(int64_t begin) const;
  void RunGroup(int64_t n_begin, int64_t n_end);
  void RunBlock(int64_t n_begin, int64_t n_end, const Panel& panel);
  void PackX(int64_t begin, int64_t length);
  void DecodePanel(const uint8_t* source, int64_t length, X* out) const;
  Columns MakeColumns(int64_t n, int64_t n_begin, int64_t n_end, const Panel& panel, bool decoded);
  template <class Dot>
  void RunRows(const Columns& columns, int64_t row, int64_t row_end);
  template <class Dot, int kRows>
  void RunOne(const Columns& columns, int64_t row);

  const cpu::RawLinear& args_;
  const bool round_x_;
  const bool converts_;
  bool few_rows_ = false;
  int64_t row_begin_ = 0;
  int64_t rows_ = 0;
  int64_t packed_begin_ = -1;  // the panel that x_panel_ holds
  int64_t packed_stride_ = 0;
  alignas(64) X x_panel_[kRowBlock * kPanelStride];
  alignas(64) X w_group_[kColumnGroup * kPanelStride];
  alignas(64) V totals_[kRowBlock * kColumnGroup];
};

// A panel ends where a segment ends. Few rows take long panels: one, in the common case.
template <class Direct, class Decoded, bool kScaled>
int64_t LinearRun<Direct, Decoded, kScaled>::PanelEnd(int64_t begin) const {
  int64_t length = kPanel;
  if (few_rows_) length = converts_ ? kRowBlock * kPanel / rows_ / kSegment * kSegment : args_.depth;
  const int64_t end = begin + length;
  if (end >= args_.depth) return args_.depth;
  if (!kScaled) return end;
  const int64_t block = args_.w.scales.block_cols;
  const int64_t block_end = (begin / block + 1) * block;
  return block_end > end ? begin + length / kSegment * kSegment : end / block * block;
}

template <class Direct, class Decoded, bool kScaled>
void LinearRun<Direct, Decoded, kScaled>::RunGroup(int64_t n_begin, int64_t n_end) {
  for (int64_t k = 0;;) {
    const int64_t end = PanelEnd(k);
    const Panel panel = {k, end - k, PrefetchBytes(kTileCols * args_.w.row_bytes), &args_.w.scales, {}};
    if ((converts_ || !few_rows_) && packed_begin_ != k) PackX(k, end - k);
    if (few_rows_) {
      for (int64_t n = n_begin; n < n_end; n += kTileCols) {
        RunRows<Direct>(MakeColumns(n, n_begin, n_end, panel, false), 0, rows_);
      }
    } else {
      RunBlock(n_begin, n_end, panel);
    }
    if (end >= args_.depth) return;
    k = end;
  }
}

// Many rows: some stay in the first-level cache while the group's columns pass by.
template <class Direct, class Decoded, bool kScaled>
void LinearRun<Direct, Decoded, kScaled>::RunBlock(int64_t n_begin, int64_t n_end, const Panel& panel) {
  if constexpr (kDecodes) {
    for (int64_t n = n_begin; n < n_end; ++n) {
      const uint8_t* source = args_.w.data + n * args_.w.row_bytes + Direct::Bytes(panel.begin);
      DecodePanel(source, panel.length, w_group_ + (n - n_begin) * kPanelStride);
    }
  }
  for (int64_t row = 0; row < rows_; row += kRowsInFirstCache) {
    for (int64_t n = n_begin; n < n_end; n += kTileCols) {
      RunRows<Decoded>(MakeColumns(n, n_begin, n_end, panel, kDecodes), row, MinOf(row + kRowsInFirstCache, rows_));
    }
  }
}

template <class Direct, class Decoded, bool kScaled>
void LinearRun<Direct, Decoded, kScaled>::PackX(int64_t begin, int64_t length) {
  packed_begin_ = begin;
  packed_stride_ = few_rows_ ? length : kPanelStride;
  for (int64_t row = 0; row < rows_; ++row) {
    ConvertX(args_, row_begin_ + row, begin, length, round_x_, x_panel_ + row * packed_stride_);
  }
}

template <class Direct, class Decoded, bool kScaled>
void LinearRun<Direct, Decoded, kScaled>::DecodePanel(const uint8_t* source, int64_t length, X* out) const {
  constexpr int kStep = Direct::kParts * Direct::kPart;
  typename Direct::Register registers[Direct::kParts];
  int64_t k = 0;
  for (; k + kStep <= length; k += kStep) {
    Direct::ReadWeight(source + Direct::Bytes(k), registers);
    Direct::StoreWeight(out + k, registers);
  }
  if (k == length) return;
  Direct::ReadWeightPartial(source + Direct::Bytes(k), static_cast<int>(length - k), registers);
  Direct::StoreWeight(out + k, registers);
}

template <class Direct, class Decoded, bool kScaled>
auto LinearRun<Direct, Decoded, kScaled>::MakeColumns(int64_t n, int64_t n_begin, int64_t n_end, const Panel& panel,
                                                      bool decoded) -> Columns {
  Columns columns = {n, static_cast<int>(MinOf(kTileCols, n_end - n)), {}, panel, totals_ + (n - n_begin) * kRowBlock};
  for (int j = 0; j < kTileCols; ++j) {
    const int64_t column = n + MinOf(j, columns.count - 1);
    columns.w[j] = decoded ? reinterpret_cast<const uint8_t*>(w_group_ + (column - n_begin) * kPanelStride)
                           : args_.w.data + column * args_.w.row_bytes + Direct::Bytes(panel.begin);
    if (kScaled) columns.panel.scale_rows[j] = column / args_.w.scales.block_rows * args_.w.scales.stride;
  }
  return columns;
}

template <class Direct, class Decoded, bool kScaled>
template <class Dot>
void LinearRun<Direct, Decoded, kScaled>::RunRows(const Columns& columns, int64_t row, int64_t row_end) {
  while (row < row_end) {
    const int64_t left = row_end - row;
    if constexpr (kTileRows > 4) {
      if (left > 4) {
        RunOne<Dot, kTileRows>(columns, row);
        row += kTileRows;
        continue;
      }
      if (left > 2) {
        RunOne<Dot, 4>(columns, row);
        row += 4;
        continue;
      }
    }
    if (left > 1) {
      RunOne<Dot, 2>(columns, row);
    } else {
      RunOne<Dot, 1>(columns, row);
    }
    row += 2;
  }
}

// Missing rows at the lower edge are copies of the last, too.
template <class Direct, class Decoded, bool kScaled>
template <class Dot, int kRows>
void LinearRun<Direct, Decoded, kScaled>::RunOne(const Columns& columns, int64_t row) {
  const Panel& panel = columns.panel;
  const X* x[kRows];
  for (int i = 0; i < kRows; ++i) {
    const int64_t source = MinOf(row + i, rows_ - 1);
    x[i] = packed_begin_ == panel.begin
               ? x_panel_ + source * packed_stride_
               : static_cast<const X*>(args_.x) + (row_begin_ + source) * args_.x_stride + panel.begin;
  }
  float sums[kRows * kTileCols];
  const bool finishes = panel.begin + panel.length >= args_.depth;
  RunTile<Dot, kRows, kScaled>(x, columns.w, panel,
                               Carry{columns.totals + row * kTileCols, panel.begin == 0, finishes, sums});
  if (!finishes) return;
  const int64_t rows = MinOf(kRows, rows_ - row);
  for (int64_t i = 0; i < rows; ++i) {
    float* y = args_.y + (row_begin_ + row + i) * args_.y_stride + columns.n;
    for (int j = 0; j < columns.count; ++j) y[j] = sums[i * kTileCols + j];
  }
}

template <class Direct, class Decoded, bool kScaled>
inline void RunLinear(const cpu::RawLinear& args, bool round_x) {
  LinearRun<Direct, Decoded, kScaled>(args, round_x).Run();
}

// Products in float32. In a bfloat16 profile x is rounded, and so are float32 weights; the others are exact.
template <bool kRounds>
void LinearFloat(const cpu::RawLinear& args) {
  using Plain = FloatDot<SourceF32>;
  switch (args.w.element) {
    case cpu::Element::kF32:
      if constexpr (kRounds) return RunLinear<FloatDot<SourceF32Rounded>, Plain, false>(args, true);
      return RunLinear<Plain, Plain, false>(args, false);
    case cpu::Element::kBf16:
      return RunLinear<FloatDot<SourceBf16>, Plain, false>(args, kRounds);
    case cpu::Element::kF16:
      return RunLinear<FloatDot<SourceF16>, Plain, false>(args, kRounds);
    case cpu::Element::kF8E4M3:
      return RunLinear<FloatDot<SourceF8>, Plain, true>(args, kRounds);
    case cpu::Element::kInt8:
      return RunLinear<FloatDot<SourceInt8>, Plain, true>(args, kRounds);
    case cpu::Element::kInt4:
      return RunLinear<FloatDot<SourceInt4>, Plain, true>(args, kRounds);
  }
}

}  // namespace conclave::CONCLAVE_ISA

#endif  // CONCLAVE_MOE_KERNELS_CPU_LINEAR_INL_
