// Products of some rows of weights at a time with one block of packed rows of x, where all waits for memory. Codes are
// decoded into tiles a little ahead of the tile that is multiplied, so that decoding hides behind reads, and the tiles'
// latency behind decoding and behind a second sum.
//
// The order of one product is that of amx_products.inl, for weights whose segments all begin at multiples of 32.
#ifndef CONCLAVE_MOE_KERNELS_CPU_AMX_FEW_INL_
#define CONCLAVE_MOE_KERNELS_CPU_AMX_FEW_INL_

#include <cstdint>

#include "moe/kernels/cpu/amx_few_sums.inl"
#include "moe/kernels/cpu/amx_pack.h"
#include "moe/kernels/cpu/amx_products.inl"
#include "moe/kernels/cpu/amx_scales.inl"
#include "moe/kernels/cpu/amx_tile.h"
#include "moe/kernels/cpu/amx_weights.h"
#include "moe/kernels/cpu/dot.h"
#include "moe/kernels/cpu/raw_tiles.h"

namespace conclave::CONCLAVE_ISA {

inline thread_local const uint8_t* asked_for = nullptr;  // the first row of the run that memory was asked for

// Two tiles of weights at a time, whose sums do not wait for each other: 16 rows of each of two matrices of one shape,
// or 32 of one.
template <class Source>
class FewColumns {
 public:
  static_assert(Source::kDirect || Source::kScaled);

  // Whether it computes these products: else TileProducts does, of the same bits.
  static bool Takes(const PackedBlocks& x, const cpu::RawWeight* w, int matrices, int64_t depth) {
    if (x.blocks() != 1) return false;
    if (Source::kDirect) return true;
    return EvenSegment(w[0].scales, depth) > 0 && w[0].scales.block_cols == w[matrices - 1].scales.block_cols;
  }

  // REQUIRES: Takes(x, w, matrices, depth), matrices <= 2
  FewColumns(const PackedBlocks& x, const cpu::RawWeight* w, int matrices, int64_t depth)
      : x_(x),
        depth_(depth),
        columns_(x.columns),
        stride_(x.columns * 4),
        rows_(matrices == 1 ? 2 * kTileRows16 : kTileRows16),
        steps_((depth + kStepDepth - 1) / kStepDepth),
        panels_((steps_ + kPanelSteps - 1) / kPanelSteps),
        lanes_{{w[0], 0}, {w[matrices - 1], rows_ - kTileRows16}},
        sums_{{w[0], depth, columns_}, {w[matrices - 1], depth, columns_}} {
    if constexpr (Source::kScaled) segment_mask_ = EvenSegment(w[0].scales, depth) / kStepDepth - 1;
  }

  // Of each matrix, in a run.
  int64_t rows() const { return rows_; }

  // Sets the sums of weight rows [n, n + rows()), less those from n_end on. Quickest when called for ascending n.
  void Run(TileShape& shape, int64_t n, int64_t n_end) {
    n_end_ = n_end;
    shape.Set(Count(0, n), Count(1, n) > 0 ? Count(1, n) : kTileRows16, columns_, columns_);
    if (Rows(0, n) != asked_for) AskForFirst(n);
    asked_for = IsWhole(0, n + rows_) ? Rows(0, n + rows_) : nullptr;
    Count(1, n) > 0 ? RunTiles<2>(n) : RunTiles<1>(n);
    ready_n_ = n + rows_;
  }

  // [16][columns of x]: of the first and the second 16 rows, or of the first and the second matrix.
  const float* Sums(int lane) const { return sums_[lane].Totals(); }

 private:
  static constexpr int64_t kStepDepth = cpu::kTileDepth;
  static constexpr int64_t kChunkSteps = FewSums::kSegments;  // whose segments are scaled together
  // A panel is 64 bytes of each row: so many steps.
  static constexpr int64_t kPanelSteps = 64 / Source::Bytes(kStepDepth);

  struct Lane {
    const cpu::RawWeight& w;
    int64_t row;  // its first, in a run
  };

  // The rows of a lane in the run that begins at n.
  int64_t Count(int lane, int64_t n) const { return MaxOf(0, MinOf(kTileRows16, n_end_ - n - lanes_[lane].row)); }
  // Whether a run that begins at n has whole tiles, in this call or a later one.
  bool IsWhole(int lane, int64_t n) const { return n + lanes_[lane].row + kTileRows16 <= lanes_[lane].w.rows; }
  const uint8_t* Rows(int lane, int64_t n) const {
    return lanes_[lane].w.data + (n + lanes_[lane].row) * lanes_[lane].w.row_bytes;
  }

  // While a panel of a lane is computed, memory is asked for as many lines of the next run: not for the same columns of
  // these rows, but for four pieces of them as they lie in memory. A thread's next call mostly goes on where this one
  // ends, so that it too is asked for. The first panel's, where the matrix ends.
  Streams Ahead(int lane, int64_t n, int64_t panel) const {
    return StreamsOf(lane, IsWhole(lane, n + rows_) ? n + rows_ : n, panel);
  }
  Streams StreamsOf(int lane, int64_t n, int64_t panel) const {
    constexpr int64_t kBytes = Streams::kLines * 64;
    return {Rows(lane, n) + panel * kBytes, panels_ * kBytes};
  }
  CONCLAVE_ALWAYS_INLINE static void AskFor(const Streams& streams) {
#pragma GCC unroll 16
    for (int line = 0; line < kTileRows16; ++line) streams.AskFor(line);
  }
  CONCLAVE_ALWAYS_INLINE void AskForFirst(int64_t n) {
    for (int lane = 0; lane < 2; ++lane) {
      for (int64_t panel = 0; panel < panels_ && IsWhole(lane, n); ++panel) AskFor(StreamsOf(lane, n, panel));
    }
  }

  template <int kLanes>
  void RunTiles(int64_t n) {
    if constexpr (Source::kDirect) {
      RunStored<kLanes>(n);
    } else {
      RunDecoded<kLanes>(n);
    }
  }

  template <int kLanes>
  void RunStored(int64_t n) {
    const int64_t whole = depth_ / kStepDepth;
    ZeroSums<kLanes, 1>();
    for (int64_t step = 0; step < whole; ++step) {
      _tile_loadd(6, x_.At(0, step), stride_);
      _tile_loadd(4, Rows(0, n) + step * 64, lanes_[0].w.row_bytes);
      _tile_dpbf16ps(0, 4, 6);
      AskFor(Ahead(0, n, step));
      if constexpr (kLanes > 1) {
        _tile_loadd(5, Rows(1, n) + step * 64, lanes_[1].w.row_bytes);
        _tile_dpbf16ps(2, 5, 6);
        AskFor(Ahead(1, n, step));
      }
    }
    if (whole * kStepDepth < depth_) {
      for (int lane = 0; lane < kLanes; ++lane) DecodeRest(lane, n, whole, decoded_[0][lane]);
      MultiplyStep<kLanes>(whole, decoded_[0][0], decoded_[0][kLanes - 1]);
    }
    StoreTotals<kLanes>(sums_[0].Totals(), sums_[1].Totals());
  }

  template <int kLanes>
  void RunDecoded(int64_t n) {
    if (n != ready_n_) {
      const Stored first = StoredAt(n, 0);
      for (int64_t i = 0; i < kPanelSteps; ++i) DecodeRows(first, i, decoded_[slot_][0], decoded_[slot_][1]);
    }
    for (int64_t panel = 0; panel < panels_; ++panel) {
      const bool more = panel + 1 < panels_;
      MultiplyPanel<kLanes>(n, panel, StoredAt(more ? n : n + rows_, more ? panel + 1 : 0));
    }
  }

  // A panel of the run that begins at n, as it is stored.
  struct Stored {
    int64_t n, panel;
    bool whole;  // 16 rows of each lane, and 64 bytes of each row
    const uint8_t* rows[2];
    Streams ahead[2];
  };
  Stored StoredAt(int64_t n, int64_t panel) const {
    Stored stored = {};
    stored.n = n;
    stored.panel = panel;
    stored.whole = Count(1, n) == kTileRows16 && (panel + 1) * kPanelSteps * kStepDepth <= depth_;
    if (!stored.whole) return stored;
    for (int lane = 0; lane < 2; ++lane) {
      stored.rows[lane] = Rows(lane, n) + panel * 64;
      stored.ahead[lane] = Ahead(lane, n, panel);
    }
    return stored;
  }

  // Multiplies a panel, which was decoded before, and decodes the next one meanwhile, some rows between two steps.
  template <int kLanes>
  void MultiplyPanel(int64_t n, int64_t panel, const Stored& next) {
    const uint8_t* tile0 = decoded_[slot_][0];
    const uint8_t* tile1 = decoded_[slot_][1];
    slot_ = 1 - slot_;
    uint8_t* const out0 = decoded_[slot_][0];
    uint8_t* const out1 = decoded_[slot_][1];
    int64_t step = panel * kPanelSteps;
#pragma GCC unroll 4
    for (int64_t i = 0; i < kPanelSteps; ++i, ++step, tile0 += kTileBytes, tile1 += kTileBytes) {
      DecodeRows(next, i, out0, out1);
      if (step >= steps_) continue;
      if ((step & segment_mask_) == 0) ZeroSums<kLanes, 1>();
      MultiplyStep<kLanes>(step, tile0, tile1);
      if (((step + 1) & segment_mask_) == 0 || step + 1 == steps_) EndSegment<kLanes>(n, step);
    }
  }

  template <int kLanes>
  CONCLAVE_ALWAYS_INLINE void MultiplyStep(int64_t step, const uint8_t* tile0, const uint8_t* tile1) {
    _tile_loadd(6, x_.At(0, step), stride_);
    _tile_loadd(4, tile0, 64);
    _tile_dpbf16ps(0, 4, 6);
    if constexpr (kLanes > 1) {
      _tile_loadd(5, tile1, 64);
      _tile_dpbf16ps(2, 5, 6);
    }
  }

  template <int kLanes>
  void StoreTotals(float* first, float* second) {
    _tile_stored(0, first, stride_);
    if constexpr (kLanes > 1) _tile_stored(2, second, stride_);
  }

  template <int kLanes>
  CONCLAVE_ALWAYS_INLINE void EndSegment(int64_t n, int64_t step) {
    const int64_t in_chunk = step % kChunkSteps;
    const int64_t segment = in_chunk / (segment_mask_ + 1);
    StoreTotals<kLanes>(sums_[0].OfSegment(segment), sums_[1].OfSegment(segment));
    if (in_chunk + 1 < kChunkSteps && step + 1 < steps_) return;
    for (int lane = 0; lane < kLanes; ++lane) {
      const int64_t row = n + lanes_[lane].row;
      sums_[lane].AddSegments(row, MinOf(kTileRows16, n_end_ - row), (step - in_chunk) * kStepDepth, segment + 1);
    }
  }

  // Decodes some rows of a panel, as far as they exist, into the free slot: those that are to be decoded while the step
  // `i` of another panel is multiplied.
  CONCLAVE_ALWAYS_INLINE void DecodeRows(const Stored& panel, int64_t i, uint8_t* out0, uint8_t* out1) const {
    constexpr int64_t kRows = kTileRows16 / kPanelSteps;
    static_assert(kRows % Streams::kLines == 0);
    if (__builtin_expect(!panel.whole, 0)) {
      if (i == 0) DecodeRests(panel, out0, out1);
      return;
    }
    DecodeLane<kRows>(panel, 0, i, out0);
    DecodeLane<kRows>(panel, 1, i, out1);
  }
  template <int64_t kRows>
  CONCLAVE_ALWAYS_INLINE void DecodeLane(const Stored& panel, int lane, int64_t i, uint8_t* out) const {
    const int64_t stride = lanes_[lane].w.row_bytes;
    Streams ahead = panel.ahead[lane];
    ahead.first += i * kRows / Streams::kLines * ahead.stride;
    Source::template DecodeRows<kRows>(panel.rows[lane] + i * kRows * stride, stride, ahead, out + i * kRows * 64);
  }
  CONCLAVE_NEVER_INLINE void DecodeRests(const Stored& panel, uint8_t* out0, uint8_t* out1) const {
    if (Count(0, panel.n) > 0) DecodeRest(0, panel.n, panel.panel * kPanelSteps, out0);
    if (Count(1, panel.n) > 0) DecodeRest(1, panel.n, panel.panel * kPanelSteps, out1);
  }

  // The elements of a panel from the step `step` on that are no whole panel of a whole tile; the rest of their last
  // step is zero.
  CONCLAVE_NEVER_INLINE void DecodeRest(int lane, int64_t n, int64_t step, uint8_t* out) const {
    const int64_t left = MinOf(kPanelSteps * kStepDepth, depth_ - step * kStepDepth);
    const uint8_t* codes = Rows(lane, n) + Source::Bytes(step * kStepDepth);
    for (int64_t row = 0; row < Count(lane, n); ++row, codes += lanes_[lane].w.row_bytes) {
      for (int64_t i = 0; i < left; i += kStepDepth) {
        __m512i tile[1];
        Source::Decode(codes + Source::Bytes(i), Elements(0, left - i), tile);
        _mm512_store_si512(out + i / kStepDepth * kTileBytes + row * 64, tile[0]);
      }
    }
  }

  const PackedBlocks& x_;
  const int64_t depth_, columns_, stride_;  // bytes between rows of sums
  const int64_t rows_, steps_, panels_;
  const Lane lanes_[2];
  int64_t segment_mask_ = 0;  // segments begin at steps that have none of these bits
  int64_t n_end_ = 0;
  int64_t ready_n_ = -1;  // the run whose first panel is decoded
  int slot_ = 0;          // of the panel that is decoded
  FewSums sums_[2];
  // Rows past the end are left as they are: tiles of fewer rows do not read them.
  alignas(64) uint8_t decoded_[2][2][kPanelSteps * kTileBytes];
};

}  // namespace conclave::CONCLAVE_ISA

#endif  // CONCLAVE_MOE_KERNELS_CPU_AMX_FEW_INL_
