// Products of 16 rows of weights at a time with one block of packed rows of x, where all waits for memory. Stored codes
// are decoded into tiles a little ahead of the tile that is multiplied, so that decoding hides behind reads, and the
// tiles' latency behind decoding. The sums of a segment lie close together, row after row, and sixteen are scaled at a
// time.
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

// Of one matrix or of two of the same shape, 16 rows of each in turn.
template <class Source>
class FewColumns {
 public:
  static_assert(Source::kDirect || Source::kScaled);

  // Whether it computes this product: else TileProducts does, of the same bits.
  static bool Takes(const PackedBlocks& x, const cpu::RawWeight& w, int64_t depth) {
    return x.blocks() == 1 && (Source::kDirect || Segment(w, depth) > 0);
  }

  // REQUIRES: Takes(x, w[i], depth) for all i < matrices <= 2
  FewColumns(const PackedBlocks& x, const cpu::RawWeight* w, int matrices, int64_t depth)
      : x_(x), w_(w), matrices_(matrices), depth_(depth), columns_(x.columns), stride_(x.columns * 4) {
    if constexpr (Source::kScaled) {
      for (int64_t i = 0; i < columns_ * kTileRows16; ++i) row_of_sum_[i] = static_cast<int32_t>(i / columns_);
    }
  }

  // Sets the sums of weight rows [n, n + 16), less those from n_end on. Quickest when called for ascending n.
  void Run(TileShape& shape, int64_t n, int64_t n_end) {
    n_end_ = n_end;
    count_ = MinOf(kTileRows16, n_end - n);
    shape.Set(count_, kTileRows16, columns_, columns_);
    if constexpr (Source::kDirect) {
      for (int i = 0; i < matrices_; ++i) RunStored(i, n);
    } else {
      RunDecoded(n);
    }
  }

  // [16][columns of x]
  const float* Sums(int matrix) const { return totals_[matrix]; }

 private:
  static constexpr int64_t kStepDepth = cpu::kTileDepth;
  static constexpr int64_t kChunkSteps = kSegmentDepth / kStepDepth;  // whose segments are scaled together
  static_assert(kChunkSteps == 16);
  // A row of a panel is decoded between two steps of the panel before it.
  static constexpr int64_t kPanelSteps = kTileRows16;
  static constexpr int64_t kPanelDepth = kPanelSteps * kStepDepth;
  // Codes are decoded by 64 bytes of a row, a unit, which are so many steps.
  static constexpr int64_t kUnitSteps = 64 / Source::Bytes(kStepDepth);
  static constexpr int64_t kRowsAhead = 4096 / Source::Bytes(kPanelDepth);  // memory is asked for

  // Steps [k / 32, k / 32 + kPanelSteps) of 16 rows of a matrix.
  struct Panel {
    int matrix;
    int64_t n, k;
  };

  // The length of segments where all begin at multiples of it; else 0.
  static int64_t Segment(const cpu::RawWeight& w, int64_t depth) {
    const int64_t block_cols = w.scales.block_cols;
    if (block_cols >= depth) return kSegmentDepth;
    return block_cols % kStepDepth == 0 && kSegmentDepth % block_cols == 0 ? block_cols : 0;
  }

  void RunStored(int matrix, int64_t n) {
    const int64_t row_bytes = w_[matrix].row_bytes;
    const uint8_t* rows = w_[matrix].data + n * row_bytes;
    const int64_t whole = depth_ / kStepDepth;
    // While a group of rows is read, memory is asked for the next one, if it is ours.
    const int64_t ahead = n + kTileRows16 < n_end_ ? kTileRows16 * row_bytes : 0;
    const TileSteps steps = {{rows, rows},       row_bytes, kStepDepth * 2, {x_.data, x_.data},
                             {stride_, stride_}, whole,     ahead};
    _tile_zero(0);
    MultiplyTiles<1, 1, 1>(steps);
    if (whole * kStepDepth < depth_) {
      const __mmask32 mask = Elements(0, depth_ - whole * kStepDepth);
      for (int64_t row = 0; row < count_; ++row) {
        __m512i last[1];
        Source::Decode(rows + row * row_bytes + Source::Bytes(whole * kStepDepth), mask, last);
        _mm512_store_si512(decoded_[0] + row * 64, last[0]);
      }
      _tile_loadd(4, decoded_[0], 64);
      _tile_loadd(6, x_.At(0, whole), stride_);
      _tile_dpbf16ps(0, 4, 6);
    }
    _tile_stored(0, totals_[matrix], stride_);
  }

  void RunDecoded(int64_t n) {
    if (n != ready_n_) {
      next_ = {0, n, 0};
      for (int64_t row = 0; row < kTileRows16; ++row) DecodeRow(row);
      Advance();
    }
    for (int matrix = 0; matrix < matrices_; ++matrix) {
      segment_steps_ = Segment(w_[matrix], depth_) / kStepDepth;
      one_scale_ = w_[matrix].scales.block_cols >= depth_;
      for (int64_t k = 0; k < depth_; k += kPanelDepth) MultiplyPanel(matrix, n, k / kStepDepth);
    }
    ready_n_ = n + kTileRows16;
  }

  // Multiplies the panel that was decoded last, from the step `step` on, and decodes the next one meanwhile.
  void MultiplyPanel(int matrix, int64_t n, int64_t step) {
    const int64_t steps = (depth_ + kStepDepth - 1) / kStepDepth;
    const uint8_t* panel = decoded_[1 - slot_];
    for (int64_t i = 0; i < kPanelSteps; ++i) {
      DecodeRow(i);
      if (step + i < steps) MultiplyStep(matrix, n, step + i, step + i + 1 == steps, panel + i * kTileBytes);
    }
    Advance();
  }

  Panel After(const Panel& panel) const {
    if (panel.k + kPanelDepth < depth_) return {panel.matrix, panel.n, panel.k + kPanelDepth};
    if (panel.matrix + 1 < matrices_) return {panel.matrix + 1, panel.n, 0};
    return {0, panel.n + kTileRows16, 0};
  }
  void Advance() {
    next_ = After(next_);
    slot_ = 1 - slot_;
  }

  // Where a row of a panel begins; of the last row, where it does not exist.
  const uint8_t* Codes(const Panel& panel, int64_t row) const {
    const cpu::RawWeight& w = w_[panel.matrix];
    return w.data + MinOf(panel.n + row, n_end_ - 1) * w.row_bytes + Source::Bytes(panel.k);
  }

  // Decodes a row of the panel next_, if it exists.
  CONCLAVE_ALWAYS_INLINE void DecodeRow(int64_t row) {
    if (next_.n + row >= n_end_) return;
    const uint8_t* codes = Codes(next_, row);
    const int64_t later = row + kRowsAhead;
    const uint8_t* ahead = Codes(later < kTileRows16 ? next_ : After(next_), later % kTileRows16);
    uint8_t* out = decoded_[slot_] + row * 64;
    const int64_t units = MinOf(kPanelSteps, (depth_ - next_.k) / kStepDepth) / kUnitSteps;
#pragma GCC unroll 2
    for (int64_t unit = 0; unit < units; ++unit) {
      __builtin_prefetch(ahead + unit * 64, 0, 2);
      __m512i tiles[kUnitSteps];
      Source::DecodeUnit(codes + unit * 64, tiles);
#pragma GCC unroll 4
      for (int64_t s = 0; s < kUnitSteps; ++s) _mm512_store_si512(out + s * kTileBytes, tiles[s]);
      out += kUnitSteps * kTileBytes;
    }
    if (units < kPanelSteps / kUnitSteps)
      DecodeRest(codes + units * 64, next_.k + units * kUnitSteps * kStepDepth, out);
  }

  // The elements of a row from k on, which are no whole unit; the rest of their last step is zero.
  CONCLAVE_NEVER_INLINE void DecodeRest(const uint8_t* codes, int64_t k, uint8_t* out) const {
    const int64_t left = depth_ - k;
    for (int64_t i = 0; i < left; i += kStepDepth, out += kTileBytes) {
      __m512i tile[1];
      Source::Decode(codes + Source::Bytes(i), Elements(0, left - i), tile);
      _mm512_store_si512(out, tile[0]);
    }
  }

  CONCLAVE_ALWAYS_INLINE void MultiplyStep(int matrix, int64_t n, int64_t step, bool last, const uint8_t* tile) {
    const int64_t in_chunk = step % kChunkSteps;
    if (in_chunk % segment_steps_ == 0) _tile_zero(0);
    _tile_loadd(4, tile, 64);
    _tile_loadd(6, x_.At(0, step), stride_);
    _tile_dpbf16ps(0, 4, 6);
    if (!last && (in_chunk + 1) % segment_steps_ != 0) return;
    const int64_t segment = in_chunk / segment_steps_;
    _tile_stored(0, segment_sums_ + segment * kFloatsOfTile, stride_);
    if (last || in_chunk + 1 == kChunkSteps) AddChunk(matrix, n, step - in_chunk, segment + 1);
  }

  // Adds the sums of the segments from the step `step` on, each times its scale, in ascending order.
  CONCLAVE_NEVER_INLINE void AddChunk(int matrix, int64_t n, int64_t step, int64_t segments) {
    const cpu::RawScales& stored = w_[matrix].scales;
    if (step == 0 || !one_scale_) ReadScalesOf(stored, n, step * kStepDepth / stored.block_cols, segments);
    float* totals = totals_[matrix];
    for (int64_t v = 0; v < columns_; ++v) {
      const __m512i row_of_lane = _mm512_load_si512(row_of_sum_ + v * 16);
      V total = step == 0 ? Zero() : Load(totals + v * 16);
      for (int64_t i = 0; i < segments; ++i) {
        const V scale = _mm512_permutexvar_ps(row_of_lane, Load(scales_ + (one_scale_ ? 0 : i * 16)));
        total = Fma(Load(segment_sums_ + i * kFloatsOfTile + v * 16), scale, total);
      }
      Store(totals + v * 16, total);
    }
  }

  // scales_[i] are the rows' scales of segment i, from the block `block` on.
  void ReadScalesOf(const cpu::RawScales& stored, int64_t n, int64_t block, int64_t segments) {
    const auto scale_row = [&](int64_t row) {
      return (stored.block_rows == 1 ? n + row : (n + row) / stored.block_rows) * stored.stride;
    };
    if (one_scale_) {
      for (int64_t row = 0; row < count_; ++row) {
        scales_[row] = stored.data == nullptr ? 1.0f : ReadScale(stored, scale_row(row));
      }
      return;
    }
    alignas(64) float scales[kTileRows16][kChunkSteps] = {};
    for (int64_t row = 0; row < count_; ++row) ReadScales(stored, scale_row(row) + block, segments, scales[row]);
    __m512i v[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) v[i] = _mm512_load_si512(scales[i]);
    Transpose16(v);
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) _mm512_store_si512(scales_ + i * 16, v[i]);
  }

  const PackedBlocks& x_;
  const cpu::RawWeight* const w_;  // [matrices_]
  const int matrices_;
  const int64_t depth_, columns_, stride_;  // bytes between rows of sums
  bool one_scale_ = false;                  // of the matrix that is multiplied
  int64_t segment_steps_ = 1;
  int64_t n_end_ = 0, count_ = 0;
  int64_t ready_n_ = -1;  // whose first panel is decoded
  Panel next_ = {};       // to decode, into decoded_[slot_]
  int slot_ = 0;
  alignas(64) float totals_[2][kFloatsOfTile];
  alignas(64) float segment_sums_[kChunkSteps * kFloatsOfTile];
  alignas(64) float scales_[kChunkSteps * kTileRows16] = {};
  alignas(64) int32_t row_of_sum_[kFloatsOfTile];
  // Rows past the end are left as they are: tiles of fewer rows do not read them.
  alignas(64) uint8_t decoded_[2][kPanelSteps * kTileBytes];
};

}  // namespace conclave::CONCLAVE_ISA

#endif  // CONCLAVE_MOE_KERNELS_CPU_AMX_FEW_INL_
