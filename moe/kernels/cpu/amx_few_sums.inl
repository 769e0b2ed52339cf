// What few rows' products add up to: sums of segments lie close together, row after row, and sixteen are scaled at a
// time.
#ifndef CONCLAVE_MOE_KERNELS_CPU_AMX_FEW_SUMS_INL_
#define CONCLAVE_MOE_KERNELS_CPU_AMX_FEW_SUMS_INL_

#include <cstdint>

#include "moe/kernels/cpu/amx_products.inl"
#include "moe/kernels/cpu/amx_scales.inl"
#include "moe/kernels/cpu/amx_tile.h"
#include "moe/kernels/cpu/dot.h"
#include "moe/kernels/cpu/raw_tiles.h"

namespace conclave::CONCLAVE_ISA {

// Of 16 rows of one matrix: totals [16][columns of x], and the sums of up to kSegments segments of the same shape,
// which are scaled together.
class FewSums {
 public:
  static constexpr int64_t kSegments = kSegmentsOfPanel;

  FewSums(const cpu::RawWeight& w, int64_t depth, int64_t columns)
      : stored_(w.scales), columns_(columns), one_scale_(w.scales.block_cols >= depth) {
    for (int64_t i = 0; i < columns_ * kTileRows16; ++i) row_of_sum_[i] = static_cast<int32_t>(i / columns_);
  }

  float* Totals() { return totals_; }
  const float* Totals() const { return totals_; }
  float* OfSegment(int64_t segment) { return segments_ + segment * kFloatsOfTile; }

  // Adds the first `segments` sums, which begin at element `k` of the depth, each times its scale, in ascending order.
  // They are of weight rows [row, row + count); where k is 0, to nothing.
  CONCLAVE_NEVER_INLINE void AddSegments(int64_t row, int64_t count, int64_t k, int64_t segments) {
    if (k == 0 || !one_scale_)
      ReadRowScales(stored_, row, count, k / stored_.block_cols, one_scale_ ? 1 : segments, scales_);
    const int64_t scale_step = one_scale_ ? 0 : kTileRows16;
    for (int64_t v = 0; v < columns_; ++v) {
      const __m512i row_of_lane = _mm512_load_si512(row_of_sum_ + v * 16);
      V total = k == 0 ? Zero() : Load(totals_ + v * 16);
      for (int64_t i = 0; i < segments; ++i) {
        const V scale = _mm512_permutexvar_ps(row_of_lane, Load(scales_ + i * scale_step));
        total = Fma(Load(segments_ + i * kFloatsOfTile + v * 16), scale, total);
      }
      Store(totals_ + v * 16, total);
    }
  }

 private:
  const cpu::RawScales& stored_;
  const int64_t columns_;
  const bool one_scale_;
  alignas(64) float totals_[kFloatsOfTile];
  alignas(64) float segments_[kSegments * kFloatsOfTile];
  alignas(64) float scales_[kSegments * kTileRows16] = {};
  alignas(64) int32_t row_of_sum_[kFloatsOfTile];
};

}  // namespace conclave::CONCLAVE_ISA

#endif  // CONCLAVE_MOE_KERNELS_CPU_AMX_FEW_SUMS_INL_
