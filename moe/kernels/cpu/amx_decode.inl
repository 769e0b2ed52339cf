// Up to 32 rows of weights as tiles, a panel of the depth at a time.
#ifndef CONCLAVE_MOE_KERNELS_CPU_AMX_DECODE_INL_
#define CONCLAVE_MOE_KERNELS_CPU_AMX_DECODE_INL_

#include <cstdint>

#include "moe/kernels/cpu/amx_scales.inl"
#include "moe/kernels/cpu/amx_tile.h"
#include "moe/kernels/cpu/amx_weights.h"
#include "moe/kernels/cpu/dot.h"
#include "moe/kernels/cpu/raw_tiles.h"

namespace conclave::CONCLAVE_ISA {

inline constexpr int64_t kGroupRows = 32;  // rows of weights at a time: two tiles

inline thread_local const uint8_t* groups_asked_for[2] = {};  // the group that memory was asked for, of each matrix

template <class Source>
class DecodedRows {
 public:
  // `matrix`: 0 or 1 where groups of two are decoded in turn.
  DecodedRows(const cpu::RawWeight& w, int matrix) : w_(w), matrix_(matrix), panels_((w.row_bytes + 63) / 64) {}

  // Memory for the group from row n on, unless it was asked for while the one before was decoded, as the next one is.
  void AskFor(int64_t n) {
    if (Rows(n) != groups_asked_for[matrix_]) {
      for (int64_t row = n; row < n + kGroupRows && IsWhole(row); row += kTileRows16) {
        for (int64_t panel = 0; panel < panels_; ++panel) {
          for (int line = 0; line < kTileRows16; ++line) StreamsOf(row, panel).AskFor(line);
        }
      }
    }
    groups_asked_for[matrix_] = Rows(n + kGroupRows);
  }

  // Elements [begin, end) of rows [n, n + count), count <= kGroupRows, as tiles from the step of `begin` on; what lies
  // outside becomes zero. REQUIRES: they touch kSegmentDepth / 32 + 1 steps at most
  void Decode(int64_t n, int64_t count, int64_t begin, int64_t end) {
    const int64_t first = begin / 32 * 32;
    int64_t whole_rows = 0, whole_end = begin;
    if constexpr (Source::kScaled) {
      if (begin == first) {
        whole_rows = count / kTileRows16 * kTileRows16;
        whole_end = begin + (end - begin) / kPanelDepth * kPanelDepth;
        DecodePanels(n, whole_rows, begin, whole_end);
      }
    }
    for (int64_t row = 0; row < count; ++row) {
      int64_t k = row < whole_rows ? whole_end : first;
      const uint8_t* stored = Rows(n + row);
      uint8_t* out = tiles_[row / kTileRows16] + (k - first) / 32 * kStepBytes + row % kTileRows16 * 64;
      if (k < begin) DecodeSome(stored, begin, end, k, out);
      for (; k + 32 <= end; k += 32, out += kStepBytes) {
        __m512i planes[Source::kPlanes];
        Source::DecodeAll(stored + Source::Bytes(k), planes);
        StorePlanes(planes, out);
      }
      if (k < end) DecodeSome(stored, begin, end, k, out);
    }
  }

  // Of the first or the second 16 rows, [steps][planes] tiles.
  const uint8_t* Tiles(int tile) const { return tiles_[tile]; }

 private:
  static constexpr int64_t kStepsMax = kSegmentDepth / 32 + 1;  // a segment may start and end inside a step
  static constexpr int64_t kStepBytes = Source::kPlanes * kTileBytes;
  static constexpr int64_t kPanelDepth = 64 / Source::Bytes(32) * 32;  // elements in 64 bytes of codes

  const uint8_t* Rows(int64_t n) const { return w_.data + n * w_.row_bytes; }
  bool IsWhole(int64_t n) const { return n + kTileRows16 <= w_.rows; }

  // A panel's share of 16 rows from n on, as they lie in memory: see FewColumns::Ahead.
  Streams StreamsOf(int64_t n, int64_t panel) const {
    constexpr int64_t kBytes = Streams::kLines * 64;
    return {Rows(n) + panel * kBytes, panels_ * kBytes};
  }

  // Whole panels of whole tiles, while memory is asked for as much of the next group.
  void DecodePanels(int64_t first, int64_t rows, int64_t begin, int64_t end) {
    for (int64_t row = 0; row < rows; row += kTileRows16) {
      const int64_t n = first + row, next = IsWhole(n + kGroupRows) ? n + kGroupRows : n;
      uint8_t* out = tiles_[row / kTileRows16];
      for (int64_t k = begin; k < end; k += kPanelDepth, out += kPanelDepth / 32 * kTileBytes) {
        const int64_t byte = Source::Bytes(k);
        Source::template DecodeRows<kTileRows16>(Rows(n) + byte, w_.row_bytes, StreamsOf(next, byte / 64), out);
      }
    }
  }

  // The step at k, of which elements [begin, end) are wanted; goes on to the next one.
  static void DecodeSome(const uint8_t* stored, int64_t begin, int64_t end, int64_t& k, uint8_t*& out) {
    __m512i planes[Source::kPlanes];
    Source::Decode(stored + Source::Bytes(k), Elements(begin - k, end - k), planes);
    StorePlanes(planes, out);
    k += 32;
    out += kStepBytes;
  }

  static void StorePlanes(const __m512i (&planes)[Source::kPlanes], uint8_t* out) {
    for (int plane = 0; plane < Source::kPlanes; ++plane) _mm512_store_si512(out + plane * kTileBytes, planes[plane]);
  }

  const cpu::RawWeight& w_;
  const int matrix_;
  const int64_t panels_;  // of 64 bytes in a row
  // Rows past the count are left as they are: tiles of fewer rows do not read them.
  alignas(64) uint8_t tiles_[2][kStepsMax * kStepBytes];
};

}  // namespace conclave::CONCLAVE_ISA

#endif  // CONCLAVE_MOE_KERNELS_CPU_AMX_DECODE_INL_
