// Products of up to 32 rows of weights with blocks of packed rows of x, as sums in memory. What is chosen here (panels
// along the depth, how many tiles at a time) is for caches alone: C is carried from panel to panel without rounding.
//
// The order of one product: without scales, steps of 32 elements ascend, and a step's planes of the weight. With
// scales, the depth is cut into the scales' blocks, and those into segments of at most kSegmentDepth; each starts from
// zero, and its sum times the block's scale is added, segments ascending.
#ifndef CONCLAVE_MOE_KERNELS_CPU_AMX_PRODUCTS_INL_
#define CONCLAVE_MOE_KERNELS_CPU_AMX_PRODUCTS_INL_

#include <cstdint>

#include "moe/kernels/cpu/amx_decode.inl"
#include "moe/kernels/cpu/amx_pack.h"
#include "moe/kernels/cpu/amx_scales.inl"
#include "moe/kernels/cpu/amx_tile.h"
#include "moe/kernels/cpu/amx_weights.h"
#include "moe/kernels/cpu/dot.h"
#include "moe/kernels/cpu/raw_tiles.h"
#include "moe/kernels/cpu/tile.inl"

namespace conclave::CONCLAVE_ISA {

inline constexpr int64_t kBlocksMax = 16;      // blocks of x at a time
inline constexpr int64_t kFloatsOfTile = 256;

template <class Source>
class TileProducts {
 public:
  // `matrix`: 0 or 1 where two are multiplied in turn.
  TileProducts(const PackedBlocks& x, const cpu::RawWeight& w, int64_t depth, int matrix = 0)
      : x_(x), w_(w), depth_(depth), decoded_(w, matrix) {}

  // Sets the sums of weight rows [n, n + count), count <= kGroupRows, with blocks [block, block + blocks), blocks <=
  // kBlocksMax.
  void Run(TileShape& shape, int64_t n, int64_t count, int64_t block, int64_t blocks) {
    n_ = n;
    count_ = count;
    block_ = block;
    blocks_ = blocks;
    if constexpr (Source::kScaled) {
      decoded_.AskFor(n);
      if (const int64_t segment = EvenSegment(w_.scales, depth_); segment > 0) return RunSegments(shape, segment);
      for (int64_t k = 0; k < depth_;) {
        const int64_t block_end = (k / w_.scales.block_cols + 1) * w_.scales.block_cols;
        const int64_t end = MinOf(MinOf(k + kSegmentDepth, block_end), depth_);
        RunScaledSegment(shape, k, end);
        k = end;
      }
    } else if constexpr (Source::kDirect) {
      const int64_t whole = depth_ / 32 * 32;
      if (whole > 0) Multiply(shape, DirectSteps(whole / 32), 0, true, &TileProducts::Sums);
      if (whole < depth_) {
        decoded_.Decode(n_, count_, whole, depth_);
        Multiply(shape, DecodedSteps(1), whole / 32, whole == 0, &TileProducts::Sums);
      }
    } else {
      for (int64_t k = 0; k < depth_; k += kSegmentDepth) {
        const int64_t end = MinOf(k + kSegmentDepth, depth_);
        decoded_.Decode(n_, count_, k, end);
        Multiply(shape, DecodedSteps((end - k + 31) / 32), k / 32, k == 0, &TileProducts::Sums);
      }
    }
  }

  // Rows of 16 sums for 16 rows of weights: of tile 0 or 1 of the group, with the block that many behind the
  // first.
  float* Sums(int tile, int64_t index) { return sums_ + (index * 2 + tile) * kFloatsOfTile; }

 private:
  static constexpr int64_t kStepDepth = cpu::kTileDepth;
  static constexpr int64_t kScaledPanelDepth = 256;  // with it and their sums, tiles stay in the first-level cache
  static constexpr int64_t kSegmentsAtOnce = 2;      // whose sums lie there until they are scaled
  static constexpr int64_t kStepBytes = Source::kPlanes * kTileBytes;

  float* SegmentSums(int tile, int64_t index) { return segment_sums_ + (index % 2 * 2 + tile) * kFloatsOfTile; }

  TileSteps DirectSteps(int64_t steps) const {
    const uint8_t* rows = w_.data + n_ * w_.row_bytes;
    return {{rows, rows + kTileRows16 * w_.row_bytes}, w_.row_bytes, 64, {}, {}, steps};
  }
  TileSteps DecodedSteps(int64_t steps) const {
    return {{decoded_.Tiles(0), decoded_.Tiles(1)}, 64, kTileBytes, {}, {}, steps};
  }

  // The steps times every block, two blocks at a time, from the step `step` of x on.
  void Multiply(TileShape& shape, TileSteps steps, int64_t step, bool from_zero,
                float* (TileProducts::*sums_of)(int, int64_t)) {
    for (int64_t index = 0; index < blocks_; index += 2) {
      MultiplyPair(shape, steps, step, from_zero, index, sums_of);
    }
  }

  void MultiplyPair(TileShape& shape, TileSteps& steps, int64_t step, bool from_zero, int64_t index,
                    float* (TileProducts::*sums_of)(int, int64_t)) {
    const bool two_blocks = index + 1 < blocks_;
    const bool two_tiles = count_ > kTileRows16;
    float* sums[2][2];
    int64_t columns[2] = {16, 16};
    for (int j = 0; j < 2; ++j) {
      for (int i = 0; i < 2; ++i) sums[i][j] = (this->*sums_of)(i, index + j);
      if (j == 1 && !two_blocks) break;
      columns[j] = x_.ColumnsOf(block_ + index + j);
      steps.b[j] = x_.At(block_ + index + j, step);
      steps.b_stride[j] = columns[j] * 4;
    }
    if (!two_blocks) columns[1] = columns[0];
    shape.Set(MinOf(count_, kTileRows16), two_tiles ? count_ - kTileRows16 : kTileRows16, columns[0], columns[1]);
    if (two_tiles) {
      two_blocks ? MultiplySome<2, 2>(steps, from_zero, sums) : MultiplySome<2, 1>(steps, from_zero, sums);
    } else {
      two_blocks ? MultiplySome<1, 2>(steps, from_zero, sums) : MultiplySome<1, 1>(steps, from_zero, sums);
    }
  }

  template <int kA, int kB>
  static void MultiplySome(const TileSteps& steps, bool from_zero, float* const (&sums)[2][2]) {
    if (from_zero) {
      ZeroSums<kA, kB>();
    } else {
      LoadSums<kA, kB>(sums);
    }
    MultiplyTiles<kA, kB, Source::kPlanes>(steps);
    StoreSums<kA, kB>(sums);
  }

  void RunScaledSegment(TileShape& shape, int64_t begin, int64_t end) {
    decoded_.Decode(n_, count_, begin, end);
    TileSteps steps = DecodedSteps((end - 1) / 32 - begin / 32 + 1);
    alignas(64) float scales[kGroupRows];
    for (int64_t row = 0; row < count_; ++row) {
      const int64_t scale_row = (n_ + row) / w_.scales.block_rows * w_.scales.stride;
      scales[row] = w_.scales.data == nullptr ? 1.0f : ReadScale(w_.scales, scale_row + begin / w_.scales.block_cols);
    }
    for (int64_t index = 0; index < blocks_; index += 2) {
      MultiplyPair(shape, steps, begin / 32, true, index, &TileProducts::SegmentSums);
      AddSegment(index, scales, begin == 0);
    }
  }

  // Adds the sums of a segment, times the scale of each row, to those of two blocks.
  void AddSegment(int64_t index, const float* scales, bool from_zero) {
    for (int64_t j = index; j < MinOf(index + 2, blocks_); ++j) {
      const __mmask16 mask = static_cast<__mmask16>((1u << x_.ColumnsOf(block_ + j)) - 1);
      for (int64_t row = 0; row < count_; ++row) {
        const int64_t offset = row % kTileRows16 * 16;
        const int tile = static_cast<int>(row / kTileRows16);
        float* total = Sums(tile, j) + offset;
        const V before = from_zero ? Zero() : Load(total);
        Store(total, Fma(_mm512_maskz_load_ps(mask, SegmentSums(tile, j) + offset), Set(scales[row]), before));
      }
    }
  }

  // Segments that all begin at multiples of their length, decoded and scaled some at a time.
  void RunSegments(TileShape& shape, int64_t segment) {
    const bool one_scale = w_.scales.block_cols >= depth_;
    for (int64_t k = 0; k < depth_; k += kScaledPanelDepth) {
      if (k % kSegmentDepth == 0 && (k == 0 || !one_scale)) ReadScalesFrom(k, segment, one_scale);
      const int64_t end = MinOf(k + kScaledPanelDepth, depth_);
      decoded_.Decode(n_, count_, k, end);
      for (int64_t index = 0; index < blocks_; index += 2) {
        const bool two_blocks = index + 1 < blocks_;
        if (count_ > kTileRows16) {
          two_blocks ? RunPanel<2, 2>(shape, index, k, end, segment) : RunPanel<2, 1>(shape, index, k, end, segment);
        } else {
          two_blocks ? RunPanel<1, 2>(shape, index, k, end, segment) : RunPanel<1, 1>(shape, index, k, end, segment);
        }
      }
    }
  }

  void ReadScalesFrom(int64_t k, int64_t segment, bool one_scale) {
    const int64_t segments = one_scale ? 1 : (MinOf(kSegmentDepth, depth_ - k) + segment - 1) / segment;
    for (int64_t row = 0; row < count_; row += kTileRows16) {
      ReadRowScales(w_.scales, n_ + row, MinOf(kTileRows16, count_ - row), k / w_.scales.block_cols, segments,
                    scales_[row / kTileRows16]);
    }
  }

  // Elements [k, end) of the depth, a decoded panel, with one block or two: segments, or a part of one.
  template <int kA, int kB>
  void RunPanel(TileShape& shape, int64_t index, int64_t k, int64_t end, int64_t segment) {
    TileSteps steps = DecodedSteps(0);
    int64_t columns[2];
    for (int j = 0; j < kB; ++j) {
      columns[j] = x_.ColumnsOf(block_ + index + j);
      steps.b[j] = x_.At(block_ + index + j, k / kStepDepth);
      steps.b_stride[j] = columns[j] * 4;
    }
    shape.Set(MinOf(count_, kTileRows16), kA > 1 ? count_ - kTileRows16 : kTileRows16, columns[0], columns[kB - 1]);
    float* const carried = segment > kScaledPanelDepth ? segment_sums_ + index * 2 * kFloatsOfTile : segment_sums_;
    while (k < end) {
      const int64_t first = k / segment;
      int64_t segments = 0;
      for (; k < end && segments < kSegmentsAtOnce; ++segments) {
        const int64_t part = MinOf((k / segment + 1) * segment, end) - k;
        steps.count = (part + kStepDepth - 1) / kStepDepth;
        float* sums[2][2];
        for (int i = 0; i < 2; ++i) {
          for (int j = 0; j < 2; ++j) sums[i][j] = carried + (segments * 4 + j * 2 + i) * kFloatsOfTile;
        }
        MultiplySome<kA, kB>(steps, k % segment == 0, sums);
        for (int i = 0; i < kA; ++i) steps.a[i] += steps.count * kStepBytes;
        for (int j = 0; j < kB; ++j) steps.b[j] += steps.count * 16 * steps.b_stride[j];
        k += part;
      }
      if (k % segment != 0 && k < depth_) return;
      for (int j = 0; j < kB; ++j) {
        for (int i = 0; i < kA; ++i) {
          AddSegments(i, index + j, carried + (j * 2 + i) * kFloatsOfTile, columns[j], segments, first == 0,
                      w_.scales.block_cols >= depth_ ? 0 : first % (kSegmentDepth / segment));
        }
      }
    }
  }

  // Adds the sums of segments to those of a tile and a block, times the scales of each row from the panel's `scale` on.
  // Missing columns are whatever was there, and may be subnormal, which takes a hundred times as long.
  void AddSegments(int tile, int64_t index, const float* added, int64_t columns, int64_t segments, bool from_zero,
                   int64_t scale) {
    const __mmask16 mask = static_cast<__mmask16>((1u << columns) - 1);
    const float* scales = scales_[tile] + scale * kTileRows16;
    float* total = Sums(tile, index);
    const int64_t rows = MinOf(kTileRows16, count_ - tile * kTileRows16);
    for (int64_t row = 0; row < rows; ++row) {
      V sum = from_zero ? Zero() : Load(total + row * 16);
      for (int64_t i = 0; i < segments; ++i) {
        const V segment = _mm512_maskz_load_ps(mask, added + i * 4 * kFloatsOfTile + row * 16);
        sum = Fma(segment, Set(scales[i * kTileRows16 + row]), sum);
      }
      Store(total + row * 16, sum);
    }
  }

  const PackedBlocks& x_;
  const cpu::RawWeight& w_;
  const int64_t depth_;
  int64_t n_ = 0, count_ = 0, block_ = 0, blocks_ = 0;  // of the current run
  DecodedRows<Source> decoded_;
  // Rows past the group's end are left as they are: tiles of fewer rows do not read them.
  alignas(64) float sums_[kBlocksMax * 2 * kFloatsOfTile];
  // Of some segments with two blocks, or of a part of one segment with each block.
  alignas(64) float segment_sums_[kBlocksMax * 2 * kFloatsOfTile];
  alignas(64) float scales_[2][kSegmentsOfPanel * kTileRows16] = {};  // of the panel's segments, 16 rows each
};

}  // namespace conclave::CONCLAVE_ISA

#endif  // CONCLAVE_MOE_KERNELS_CPU_AMX_PRODUCTS_INL_
