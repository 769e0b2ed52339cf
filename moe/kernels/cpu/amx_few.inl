// Products of some rows of weights at a time with one block of packed rows of x, where all waits for memory. Codes are
// decoded into tiles a little ahead of the tile that is multiplied, so that decoding hides behind reads, and the tiles'
// latency behind decoding and behind a second sum. The sums of a segment lie close together, row after row, and sixteen
// are scaled at a time.
//
// The order of one product is that of amx_products.inl, for weights whose segments all begin at multiples of 32.
#ifndef CONCLAVE_MOE_KERNELS_CPU_AMX_FEW_INL_
#define CONCLAVE_MOE_KERNELS_CPU_AMX_FEW_INL_

#include <cstdint>

#include "moe/kernels/cpu/amx_pack.h"
#include "moe/kernels/cpu/amx_products.inl"
#include "moe/kernels/cpu/amx_tile.h"
#include "moe/kernels/cpu/amx_weights.h"
#include "moe/kernels/cpu/dot.h"
#include "moe/kernels/cpu/raw_tiles.h"
#include "moe/kernels/cpu/transpose16.h"

namespace conclave::CONCLAVE_ISA {

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
    return Segment(w[0], depth) > 0 && w[0].scales.block_cols == w[matrices - 1].scales.block_cols;
  }

  // REQUIRES: Takes(x, w, matrices, depth), matrices <= 2
  FewColumns(const PackedBlocks& x, const cpu::RawWeight* w, int matrices, int64_t depth)
      : x_(x),
        depth_(depth),
        columns_(x.columns),
        stride_(x.columns * 4),
        rows_(matrices == 1 ? 2 * kTileRows16 : kTileRows16),
        panels_((depth + kPanelSteps * kStepDepth - 1) / (kPanelSteps * kStepDepth)),
        lanes_{{w[0], 0}, {w[matrices - 1], rows_ - kTileRows16}} {
    if constexpr (Source::kScaled) {
      for (int64_t i = 0; i < columns_ * kTileRows16; ++i) row_of_sum_[i] = static_cast<int32_t>(i / columns_);
      segment_steps_ = Segment(w[0], depth) / kStepDepth;
      one_scale_ = w[0].scales.block_cols >= depth;
    }
  }

  // Of each matrix, in a run.
  int64_t rows() const { return rows_; }

  // Sets the sums of weight rows [n, n + rows()), less those from n_end on. Quickest when called for ascending n.
  void Run(TileShape& shape, int64_t n, int64_t n_end) {
    n_end_ = n_end;
    shape.Set(Count(0, n), Count(1, n) > 0 ? Count(1, n) : kTileRows16, columns_, columns_);
    if (n != ready_n_) AskForFirst(n);
    if (Count(1, n) > 0) {
      RunTiles<2>(n);
    } else {
      RunTiles<1>(n);
    }
    ready_n_ = n + rows_;
  }

  // [16][columns of x]: of the first and the second 16 rows, or of the first and the second matrix.
  const float* Sums(int lane) const { return totals_[lane]; }

 private:
  static constexpr int64_t kStepDepth = cpu::kTileDepth;
  static constexpr int64_t kChunkSteps = kSegmentDepth / kStepDepth;  // whose segments are scaled together
  static_assert(kChunkSteps == 16);
  // A panel is 64 bytes of each row: so many steps.
  static constexpr int64_t kPanelSteps = 64 / Source::Bytes(kStepDepth);

  struct Lane {
    const cpu::RawWeight& w;
    int64_t row;  // its first, in a run
  };

  // The length of segments where all begin at multiples of it; else 0.
  static int64_t Segment(const cpu::RawWeight& w, int64_t depth) {
    const int64_t block_cols = w.scales.block_cols;
    if (block_cols >= depth) return kSegmentDepth;
    return block_cols % kStepDepth == 0 && kSegmentDepth % block_cols == 0 ? block_cols : 0;
  }

  // The rows of a lane in the run that begins at n.
  int64_t Count(int lane, int64_t n) const { return MaxOf(0, MinOf(kTileRows16, n_end_ - n - lanes_[lane].row)); }
  const uint8_t* Rows(int lane, int64_t n) const {
    return lanes_[lane].w.data + (n + lanes_[lane].row) * lanes_[lane].w.row_bytes;
  }

  // While a panel of a lane is computed, memory is asked for as many lines of the next run: not for the same columns of
  // these rows, but for four pieces of them as they lie in memory. The first panel's, where there is no such run.
  Streams Ahead(int lane, int64_t n, int64_t panel) const {
    const int64_t next = Count(lane, n + rows_) == kTileRows16 ? n + rows_ : n;
    return StreamsOf(lane, next, panel);
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
      if (Count(lane, n) < kTileRows16) continue;
      for (int64_t panel = 0; panel < panels_; ++panel) AskFor(StreamsOf(lane, n, panel));
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
    StoreTotals<kLanes>(totals_[0], totals_[1]);
  }

  template <int kLanes>
  void RunDecoded(int64_t n) {
    if (n != ready_n_) {
      for (int64_t i = 0; i < kPanelSteps; ++i) DecodeRows(n, 0, i);
    }
    for (int64_t panel = 0; panel < panels_; ++panel) {
      const bool more = panel + 1 < panels_;
      MultiplyPanel<kLanes>(n, panel, more ? n : n + rows_, more ? panel + 1 : 0);
    }
  }

  // Multiplies a panel, which was decoded before, and decodes the next one meanwhile, some rows between two steps.
  template <int kLanes>
  void MultiplyPanel(int64_t n, int64_t panel, int64_t next_n, int64_t next_panel) {
    const int64_t steps = (depth_ + kStepDepth - 1) / kStepDepth;
    const auto& tiles = decoded_[slot_];
    slot_ = 1 - slot_;
    for (int64_t i = 0; i < kPanelSteps; ++i) {
      DecodeRows(next_n, next_panel, i);
      const int64_t step = panel * kPanelSteps + i;
      if (step >= steps) continue;
      const int64_t in_chunk = step % kChunkSteps;
      if (in_chunk % segment_steps_ == 0) ZeroSums<kLanes, 1>();
      MultiplyStep<kLanes>(step, tiles[0] + i * kTileBytes, tiles[1] + i * kTileBytes);
      const bool last = step + 1 == steps;
      if (last || (in_chunk + 1) % segment_steps_ == 0) EndSegment<kLanes>(n, step, last);
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
  CONCLAVE_ALWAYS_INLINE void EndSegment(int64_t n, int64_t step, bool last) {
    const int64_t in_chunk = step % kChunkSteps;
    const int64_t segment = in_chunk / segment_steps_;
    StoreTotals<kLanes>(segment_sums_[0] + segment * kFloatsOfTile, segment_sums_[1] + segment * kFloatsOfTile);
    if (!last && in_chunk + 1 < kChunkSteps) return;
    for (int lane = 0; lane < kLanes; ++lane) AddChunk(lane, n, step - in_chunk, segment + 1);
  }

  // Decodes some rows of a panel of the run that begins at n, as far as they exist, into the free slot: those that are
  // to be decoded while the step `i` of another panel is multiplied.
  CONCLAVE_ALWAYS_INLINE void DecodeRows(int64_t n, int64_t panel, int64_t i) {
    constexpr int64_t kRows = kTileRows16 / kPanelSteps;
    static_assert(kRows % Streams::kLines == 0);
    for (int lane = 0; lane < 2; ++lane) {
      uint8_t* out = decoded_[slot_][lane];
      if (Count(lane, n) == kTileRows16 && (panel + 1) * kPanelSteps * kStepDepth <= depth_) {
        const int64_t stride = lanes_[lane].w.row_bytes;
        Streams ahead = Ahead(lane, n, panel);
        ahead.first += i * kRows / Streams::kLines * ahead.stride;
        Source::template DecodeRows<kRows>(Rows(lane, n) + i * kRows * stride + panel * 64, stride, ahead,
                                           out + i * kRows * 64);
      } else if (i == 0 && Count(lane, n) > 0) {
        DecodeRest(lane, n, panel * kPanelSteps, out);
      }
    }
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

  // Adds the sums of the segments from the step `step` on, each times its scale, in ascending order.
  CONCLAVE_NEVER_INLINE void AddChunk(int lane, int64_t n, int64_t step, int64_t segments) {
    const cpu::RawScales& stored = lanes_[lane].w.scales;
    float* scales = scales_[lane];
    if (step == 0 || !one_scale_) {
      ReadScalesOf(lane, n + lanes_[lane].row, step * kStepDepth / stored.block_cols, one_scale_ ? 1 : segments);
    }
    float* totals = totals_[lane];
    for (int64_t v = 0; v < columns_; ++v) {
      const __m512i row_of_lane = _mm512_load_si512(row_of_sum_ + v * 16);
      V total = step == 0 ? Zero() : Load(totals + v * 16);
      for (int64_t i = 0; i < segments; ++i) {
        const V scale = _mm512_permutexvar_ps(row_of_lane, Load(scales + (one_scale_ ? 0 : i * 16)));
        total = Fma(Load(segment_sums_[lane] + i * kFloatsOfTile + v * 16), scale, total);
      }
      Store(totals + v * 16, total);
    }
  }

  // scales_[lane][i] are the scales of the 16 rows from `row` on, of segment i, from the block `block` on.
  void ReadScalesOf(int lane, int64_t row, int64_t block, int64_t segments) {
    const cpu::RawScales& stored = lanes_[lane].w.scales;
    const int64_t count = MinOf(kTileRows16, n_end_ - row);
    alignas(64) float scales[kTileRows16][kChunkSteps] = {};
    if (stored.data == nullptr) {
      Store(scales_[lane], Set(1.0f));
      return;
    }
    const int64_t first = row / stored.block_rows;
    if (first == (row + count - 1) / stored.block_rows) {
      ReadScales(stored, first * stored.stride + block, segments, scales[0]);
      for (int64_t i = 0; i < segments; ++i) Store(scales_[lane] + i * 16, Set(scales[0][i]));
      return;
    }
    for (int64_t i = 0; i < count; ++i) {
      ReadScales(stored, (row + i) / stored.block_rows * stored.stride + block, segments, scales[i]);
    }
    __m512i v[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) v[i] = _mm512_load_si512(scales[i]);
    Transpose16(v);
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) _mm512_store_si512(scales_[lane] + i * 16, v[i]);
  }

  const PackedBlocks& x_;
  const int64_t depth_, columns_, stride_;  // bytes between rows of sums
  const int64_t rows_, panels_;
  const Lane lanes_[2];
  bool one_scale_ = false;
  int64_t segment_steps_ = 1;
  int64_t n_end_ = 0;
  int64_t ready_n_ = -1;  // the run whose first panel is decoded
  int slot_ = 0;          // of the panel that is decoded
  alignas(64) float totals_[2][kFloatsOfTile];
  alignas(64) float segment_sums_[2][kChunkSteps * kFloatsOfTile];
  alignas(64) float scales_[2][kChunkSteps * kTileRows16] = {};
  alignas(64) int32_t row_of_sum_[kFloatsOfTile];
  // Rows past the end are left as they are: tiles of fewer rows do not read them.
  alignas(64) uint8_t decoded_[2][2][kPanelSteps * kTileBytes];
};

}  // namespace conclave::CONCLAVE_ISA

#endif  // CONCLAVE_MOE_KERNELS_CPU_AMX_FEW_INL_
