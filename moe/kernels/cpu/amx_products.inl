// Products of up to 32 rows of weights with blocks of packed rows of x, as sums in memory. What is chosen here (panels
// along the depth, how many tiles at a time) is for caches alone: C is carried from panel to panel without rounding.
//
// The order of one product: without scales, steps of 32 elements ascend, and a step's planes of the weight. With
// scales, the depth is cut into the scales' blocks, and those into segments of at most kSegmentDepth; each starts from
// zero, and its sum times the block's scale is added, segments ascending.
#ifndef CONCLAVE_MOE_KERNELS_CPU_AMX_PRODUCTS_INL_
#define CONCLAVE_MOE_KERNELS_CPU_AMX_PRODUCTS_INL_

#include <cstdint>

#include "moe/kernels/cpu/amx_pack.h"
#include "moe/kernels/cpu/amx_tile.h"
#include "moe/kernels/cpu/amx_weights.h"
#include "moe/kernels/cpu/dot.h"
#include "moe/kernels/cpu/raw_tiles.h"
#include "moe/kernels/cpu/tile.inl"

namespace conclave::CONCLAVE_ISA {

inline constexpr int64_t kGroupRows = 32;      // rows of weights at a time: two tiles
inline constexpr int64_t kSegmentDepth = 512;  // also of a decoded panel
inline constexpr int64_t kBlocksMax = 16;      // blocks of x at a time
inline constexpr int64_t kFloatsOfTile = 256;

template <class Source>
class TileProducts {
 public:
  TileProducts(const PackedBlocks& x, const cpu::RawWeight& w, int64_t depth) : x_(x), w_(w), depth_(depth) {}

  // Sets the sums of weight rows [n, n + count), count <= kGroupRows, with blocks [block, block + blocks), blocks <=
  // kBlocksMax.
  void Run(TileShape& shape, int64_t n, int64_t count, int64_t block, int64_t blocks) {
    n_ = n;
    count_ = count;
    block_ = block;
    blocks_ = blocks;
    if constexpr (Source::kScaled) {
      if (w_.scales.data != nullptr && w_.scales.block_cols == kStepDepth) return RunGroups(shape);
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
        Decode(whole, depth_);
        Multiply(shape, DecodedSteps(1), whole / 32, whole == 0, &TileProducts::Sums);
      }
    } else {
      for (int64_t k = 0; k < depth_; k += kSegmentDepth) {
        const int64_t end = MinOf(k + kSegmentDepth, depth_);
        Decode(k, end);
        Multiply(shape, DecodedSteps((end - k + 31) / 32), k / 32, k == 0, &TileProducts::Sums);
      }
    }
  }

  // Rows of 16 sums for 16 rows of weights: of tile 0 or 1 of the group, with the block that many behind the
  // first.
  float* Sums(int tile, int64_t index) { return sums_ + (index * 2 + tile) * kFloatsOfTile; }

 private:
  static constexpr int64_t kStepDepth = cpu::kTileDepth;
  static constexpr int64_t kSegmentsMax = kSegmentDepth / kStepDepth;
  static_assert(kSegmentsMax == 16);
  static constexpr int64_t kStepsMax = kSegmentDepth / 32 + 1;  // a segment may start and end inside a step
  static constexpr int64_t kStepBytes = Source::kPlanes * kTileBytes;

  float* SegmentSums(int tile, int64_t index) { return segment_sums_ + (index % 2 * 2 + tile) * kFloatsOfTile; }

  TileSteps DirectSteps(int64_t steps) const {
    const uint8_t* rows = w_.data + n_ * w_.row_bytes;
    return {{rows, rows + kTileRows16 * w_.row_bytes}, w_.row_bytes, 64, {}, {}, steps};
  }
  TileSteps DecodedSteps(int64_t steps) const { return {{decoded_[0], decoded_[1]}, 64, kTileBytes, {}, {}, steps}; }

  // Elements [begin, end) of the group's rows, as tiles from the step of `begin` on; what lies outside becomes zero.
  void Decode(int64_t begin, int64_t end) {
    const int64_t first = begin / 32 * 32;
    for (int64_t row = 0; row < count_; ++row) {
      const uint8_t* stored = w_.data + (n_ + row) * w_.row_bytes;
      uint8_t* out = decoded_[row / kTileRows16] + row % kTileRows16 * 64;
      int64_t k = first;
      if (k < begin) DecodeSome(stored, begin, end, k, out);
      for (; k + 32 <= end; k += 32, out += kStepBytes) {
        __m512i planes[Source::kPlanes];
        Source::DecodeAll(stored + Source::Bytes(k), planes);
        StorePlanes(planes, out);
      }
      if (k < end) DecodeSome(stored, begin, end, k, out);
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
    Decode(begin, end);
    TileSteps steps = DecodedSteps((end - 1) / 32 - begin / 32 + 1);
    alignas(64) float scales[kGroupRows];
    for (int64_t row = 0; row < count_; ++row) {
      const int64_t scale_row = (n_ + row) / w_.scales.block_rows * w_.scales.stride;
      scales[row] = w_.scales.data == nullptr ? 1.0f : ReadScale(w_.scales, scale_row + begin / w_.scales.block_cols);
    }
    for (int64_t index = 0; index < blocks_; index += 2) {
      MultiplyPair(shape, steps, begin / 32, true, index, &TileProducts::SegmentSums);
      AddSegment(index, scales, 1, begin == 0);
    }
  }

  // Adds the sums of a segment, times the scale of each row, to those of two blocks.
  void AddSegment(int64_t index, const float* scales, int64_t scale_stride, bool from_zero) {
    for (int64_t j = index; j < MinOf(index + 2, blocks_); ++j) {
      for (int64_t row = 0; row < count_; ++row) {
        const int64_t offset = row % kTileRows16 * 16;
        const int tile = static_cast<int>(row / kTileRows16);
        float* total = Sums(tile, j) + offset;
        const V before = from_zero ? Zero() : Load(total);
        Store(total, Fma(Load(SegmentSums(tile, j) + offset), Set(scales[row * scale_stride]), before));
      }
    }
  }

  // The scales of the group's rows for elements from k on, one for each of `segments`, or one for all.
  void ReadSegmentScales(int64_t k, int64_t segments) {
    const int64_t block = k / w_.scales.block_cols;
    for (int64_t row = 0; row < count_; ++row) {
      float* scales = segment_scales_ + row * kSegmentsMax;
      const int64_t scale_row = (n_ + row) / w_.scales.block_rows * w_.scales.stride;
      if (w_.scales.data == nullptr) {
        scales[0] = 1.0f;
      } else {
        ReadScales(w_.scales, scale_row + block, w_.scales.block_cols >= depth_ ? 1 : segments, scales);
      }
    }
  }

  // Segments of one step each, decoded many at a time.
  void RunGroups(TileShape& shape) {
    for (int64_t k = 0; k < depth_; k += kSegmentDepth) {
      const int64_t end = MinOf(k + kSegmentDepth, depth_);
      const int64_t first = k / kStepDepth, groups = (end - k + kStepDepth - 1) / kStepDepth;
      Decode(k, end);
      ReadSegmentScales(k, groups);
      for (int64_t index = 0; index < blocks_; index += 2) {
        for (int64_t group = 0; group < groups; ++group) {
          TileSteps step = DecodedSteps(1);
          for (int tile = 0; tile < 2; ++tile) step.a[tile] += group * kStepBytes;
          MultiplyPair(shape, step, first + group, true, index, &TileProducts::SegmentSums);
          AddSegment(index, segment_scales_ + group, kSegmentsMax, first + group == 0);
        }
      }
    }
  }

  const PackedBlocks& x_;
  const cpu::RawWeight& w_;
  const int64_t depth_;
  int64_t n_ = 0, count_ = 0, block_ = 0, blocks_ = 0;  // of the current run
  // Rows past the group's end are left as they are: tiles of fewer rows do not read them.
  alignas(64) float sums_[kBlocksMax * 2 * kFloatsOfTile];
  // A block's missing columns are scaled and added like all others. Zeros, as what an earlier call left there may be
  // subnormal, which takes a hundred times as long.
  alignas(64) float segment_sums_[2 * 2 * kFloatsOfTile] = {};
  alignas(64) float segment_scales_[kGroupRows * kSegmentsMax] = {};
  alignas(64) uint8_t decoded_[2][kStepsMax * kStepBytes];
};

}  // namespace conclave::CONCLAVE_ISA

#endif  // CONCLAVE_MOE_KERNELS_CPU_AMX_PRODUCTS_INL_
