// Products of 8-bit integers by AVX-512, with VNNI's dot products of bytes where the build has them: 16 rows of weights
// as they are stored by up to four rows of x, from memory at its own speed. Memory is asked, in order, for the next
// sixteen rows while these are multiplied. raw_int8.h has the formula and the layout of x.
#ifndef CONCLAVE_MOE_KERNELS_CPU_INT8_FEW_INL_
#define CONCLAVE_MOE_KERNELS_CPU_INT8_FEW_INL_

#include <immintrin.h>

#include <cstdint>

#include "moe/kernels/cpu/int8_loops.h"
#include "moe/kernels/cpu/int8_pack.inl"
#include "moe/kernels/cpu/int8_scales.h"

namespace conclave::CONCLAVE_ISA {

inline constexpr int64_t kFewColumns = 16;  // rows of weights, which are columns of y

// acc + the products of four neighbours each, of codes u below 2^kBits without a sign and values x.
template <int kBits>
inline __m512i AddDots(__m512i acc, __m512i u, __m512i x) {
#if defined(__AVX512VNNI__)
  return _mm512_dpbusd_epi32(acc, u, x);
#else
  const __m512i ones = _mm512_set1_epi16(1);
  if constexpr (kBits < 8) return _mm512_add_epi32(acc, _mm512_madd_epi16(_mm512_maddubs_epi16(u, x), ones));
  // Seven bits and the eighth: sums of two products then fit 16 bits.
  const __m512i low = _mm512_maddubs_epi16(_mm512_and_si512(u, _mm512_set1_epi8(0x7f)), x);
  const __m512i high = _mm512_maddubs_epi16(_mm512_and_si512(u, _mm512_set1_epi8(-128)), x);
  return _mm512_add_epi32(acc, _mm512_add_epi32(_mm512_madd_epi16(low, ones), _mm512_madd_epi16(high, ones)));
#endif
}

// Words of four vectors, added inside 128 bits: word c of lane l of the result is the sum of lane l of v[c].
inline __m512i AddInLanes(const __m512i (&v)[4]) {
  const __m512i ab = _mm512_add_epi32(_mm512_unpacklo_epi32(v[0], v[1]), _mm512_unpackhi_epi32(v[0], v[1]));
  const __m512i cd = _mm512_add_epi32(_mm512_unpacklo_epi32(v[2], v[3]), _mm512_unpackhi_epi32(v[2], v[3]));
  return _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
}
// The same of words whose sums of two fit 16 bits.
inline __m512i AddSmallInLanes(const __m512i (&v)[4]) {
  const __m512i ones = _mm512_set1_epi16(1);
  const __m512i ab = _mm512_madd_epi16(_mm512_packs_epi32(v[0], v[1]), ones);
  const __m512i cd = _mm512_madd_epi16(_mm512_packs_epi32(v[2], v[3]), ones);
  return _mm512_madd_epi16(_mm512_packs_epi32(ab, cd), ones);
}
// 128-bit lane l of v[i] becomes lane i of out[l].
inline void TransposeLanes(const __m512i (&v)[4], __m512i (&out)[4]) {
  const __m512i low01 = _mm512_shuffle_i32x4(v[0], v[1], 0x44), high01 = _mm512_shuffle_i32x4(v[0], v[1], 0xee);
  const __m512i low23 = _mm512_shuffle_i32x4(v[2], v[3], 0x44), high23 = _mm512_shuffle_i32x4(v[2], v[3], 0xee);
  out[0] = _mm512_shuffle_i32x4(low01, low23, 0x88);
  out[1] = _mm512_shuffle_i32x4(low01, low23, 0xdd);
  out[2] = _mm512_shuffle_i32x4(high01, high23, 0x88);
  out[3] = _mm512_shuffle_i32x4(high01, high23, 0xdd);
}
// Lane i of the result is the sum of the four lanes of v[i].
inline __m512i AddLanes(const __m512i (&v)[4]) {
  const __m512i v01 = _mm512_add_epi32(_mm512_shuffle_i32x4(v[0], v[1], 0x88), _mm512_shuffle_i32x4(v[0], v[1], 0xdd));
  const __m512i v23 = _mm512_add_epi32(_mm512_shuffle_i32x4(v[2], v[3], 0x88), _mm512_shuffle_i32x4(v[2], v[3], 0xdd));
  return _mm512_add_epi32(_mm512_shuffle_i32x4(v01, v23, 0x88), _mm512_shuffle_i32x4(v01, v23, 0xdd));
}

template <bool kInt4, cpu::Int8Scaling kScaling>
class FewInt8 {
 public:
  explicit FewInt8(const cpu::RawInt8Linear& args)
      : args_(args), w_(args.w), depth_(args.x.depth), blocks_(cpu::Int8Blocks(depth_)) {}

  void Run(int64_t row_begin, int64_t row_end) {
    const int64_t first_bytes = MinOf(kFewColumns, args_.n_end - args_.n_begin) * w_.row_bytes;
    for (int64_t i = 0; i < MinOf(first_bytes, 16 << 10); i += 64) {
      __builtin_prefetch(w_.data + args_.n_begin * w_.row_bytes + i, 0, 2);
    }
    for (int64_t n = args_.n_begin; n < args_.n_end; n += kFewColumns) {
      Begin(n);
      for (int64_t row = row_begin; row < row_end;) {
        const int64_t left = row_end - row;
        if (left >= 4) {
          RunRows<4>(n, row), row += 4;
        } else if (left >= 2) {
          RunRows<2>(n, row), row += 2;
        } else {
          RunRows<1>(n, row), row += 1;
        }
      }
    }
  }

 private:
  static constexpr bool kGroups = kScaling == cpu::Int8Scaling::kGroup;
  static_assert(!kGroups || kInt4);
  static constexpr int64_t kBytes = kInt4 ? cpu::kInt8Block / 2 : cpu::kInt8Block;  // of a block of weights
  static constexpr int64_t kPanelBlocks = 16;                                       // whose scales are read together

  void Begin(int64_t n) {
    const int64_t count = MinOf(kFewColumns, args_.n_end - n);
    mask_ = static_cast<__mmask16>((1u << count) - 1);
    count_ = count;
    // Columns past the end are copies of the last one.
    for (int64_t i = 0; i < kFewColumns; ++i) w_rows_[i] = w_.data + (n + MinOf(i, count - 1)) * w_.row_bytes;
    ahead_ = n + kFewColumns < args_.n_end ? w_.data + (n + kFewColumns) * w_.row_bytes : nullptr;
    panel_ = -1;
  }

  template <int64_t kCount>
  CONCLAVE_ALWAYS_INLINE static void Prefetch(const uint8_t* p) {
#pragma GCC unroll 16
    for (int64_t line = 0; line < kCount; line += 64) __builtin_prefetch(p + line, 0, 2);
  }

  template <int kRows>
  CONCLAVE_NEVER_INLINE void RunRows(int64_t n, int64_t row) {
    Int8Row rows[kRows];
#pragma GCC unroll 4
    for (int i = 0; i < kRows; ++i) rows[i] = Int8Row(args_.x, row + i);
    V totals[kRows];
#pragma GCC unroll 4
    for (int i = 0; i < kRows; ++i) totals[i] = Zero();
    const int64_t whole = depth_ / cpu::kInt8Block;
    for (int64_t block = 0; block < whole; ++block) RunBlock<kRows, false>(n, block, rows, totals);
    if (whole < blocks_) RunBlock<kRows, true>(n, whole, rows, totals);
    ahead_ = nullptr;
    const V scales = kScaling == cpu::Int8Scaling::kRow ? RowScales(w_.scales, n, count_) : Set(1.0f);
#pragma GCC unroll 4
    for (int i = 0; i < kRows; ++i) {
      _mm512_mask_storeu_ps(args_.y + (row + i) * args_.y_stride + n, mask_, Mul(totals[i], scales));
    }
  }

  template <int kRows, bool kPart>
  CONCLAVE_ALWAYS_INLINE void RunBlock(int64_t n, int64_t block, const Int8Row (&rows)[kRows], V (&totals)[kRows]) {
    if (kScaling != cpu::Int8Scaling::kRow && block / kPanelBlocks != panel_) ReadPanelScales(n, block / kPanelBlocks);
    const int64_t at = block * kBytes;
    __m512i quads[kRows][4];  // [four columns]: words are columns, lanes are what is left to add (INT4: groups)
#pragma GCC unroll 4
    for (int quad = 0; quad < 4; ++quad) {
      __m512i w[4][2];
      if (ahead_ != nullptr) Prefetch<4 * kBytes>(ahead_ + (block * 4 + quad) * 4 * kBytes);
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) ReadWeights<kPart>(w_rows_[quad * 4 + i] + at, block, w[i]);
#pragma GCC unroll 4
      for (int row = 0; row < kRows; ++row) {
        const int8_t* x = (kInt4 ? rows[row].halves : rows[row].codes) + block * cpu::kInt8Block;
        const __m512i x0 = _mm512_loadu_si512(x), x1 = _mm512_loadu_si512(x + 64);
        __m512i dots[4];
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) {
          dots[i] = AddDots<kInt4 ? 4 : 8>(AddDots<kInt4 ? 4 : 8>(_mm512_setzero_si512(), w[i][0], x0), w[i][1], x1);
        }
        if constexpr (kInt4) {
          quads[row][quad] = AddSmallInLanes(dots);
        } else {
          quads[row][quad] = AddInLanes(dots);
        }
      }
    }
#pragma GCC unroll 4
    for (int row = 0; row < kRows; ++row) {
      totals[row] = Fma(Part(block, rows[row], quads[row]), Set(rows[row].scales[block]), totals[row]);
    }
  }

  // A block's codes of one row of weights: of INT8 all columns in order, of INT4 even ones, then odd ones.
  template <bool kPart>
  CONCLAVE_ALWAYS_INLINE void ReadWeights(const uint8_t* p, int64_t block, __m512i (&out)[2]) const {
    const auto load = [&](int64_t first) {
      if constexpr (!kPart) return _mm512_loadu_si512(p + first);
      const int64_t left = depth_ - block * cpu::kInt8Block;
      const int64_t bytes = (kInt4 ? (left + 1) / 2 : left) - first;
      return _mm512_maskz_loadu_epi8(bytes <= 0 ? 0 : bytes >= 64 ? ~__mmask64{0} : (__mmask64{1} << bytes) - 1,
                                     p + first);
    };
    if constexpr (kInt4) {
      const __m512i codes = load(0);
      out[0] = _mm512_and_si512(codes, _mm512_set1_epi8(0xf));
      out[1] = _mm512_and_si512(_mm512_srli_epi16(codes, 4), _mm512_set1_epi8(0xf));
    } else {
      out[0] = load(0);
      out[1] = load(64);
    }
  }

  // The formula's part[m, n, b] of 16 columns n.
  CONCLAVE_ALWAYS_INLINE V Part(int64_t block, const Int8Row& x, const __m512i (&quads)[4]) const {
    const float(*scales)[kFewColumns] = scales_ + block % kPanelBlocks * (kGroups ? cpu::kGroupsOfBlock : 1);
    const int32_t* sums = x.group_sums + block * cpu::kGroupsOfBlock;
    if constexpr (kGroups) {
      __m512i groups[4];
      TransposeLanes(quads, groups);
      V part = Zero();
#pragma GCC unroll 4
      for (int i = 0; i < cpu::kGroupsOfBlock; ++i) {
        const __m512i dot = _mm512_add_epi32(groups[i], _mm512_set1_epi32(sums[i]));
        part = Fma(_mm512_cvtepi32_ps(dot), Load(scales[i]), part);
      }
      return part;
    }
    const int32_t offset = kInt4 ? sums[0] + sums[1] + sums[2] + sums[3] : x.block_sums[block];
    const V dot = _mm512_cvtepi32_ps(_mm512_add_epi32(AddLanes(quads), _mm512_set1_epi32(offset)));
    return kScaling == cpu::Int8Scaling::kRow ? dot : Fma(dot, Load(scales[0]), Zero());
  }

  // scales_[i] become the 16 columns' scales of group (kBlock: block) i of the panel. Memory is asked for those of the
  // next 16 columns.
  CONCLAVE_NEVER_INLINE void ReadPanelScales(int64_t n, int64_t panel) {
    panel_ = panel;
    const cpu::RawScales& stored = w_.scales;
    constexpr int64_t kColumns = kGroups ? cpu::kInt8Group : cpu::kInt8Block;
    const int64_t first = panel * kPanelBlocks * cpu::kInt8Block;
    const int64_t groups = (MinOf(depth_ - first, kPanelBlocks * cpu::kInt8Block) + kColumns - 1) / kColumns;
    if (ahead_ != nullptr) {
      const int64_t bytes = stored.element == cpu::ScaleElement::kF32 ? 4 : 2;
      const auto* next = static_cast<const uint8_t*>(stored.data) +
                         ((n + kFewColumns) * stored.stride + first / stored.block_cols) * bytes;
      for (int64_t i = 0; i < kFewColumns; ++i) __builtin_prefetch(next + i * stored.stride * bytes, 0, 2);
    }
    ReadGroupScales(stored, n, count_, first, kColumns, groups, scales_);
  }

  const cpu::RawInt8Linear& args_;
  const cpu::RawWeight& w_;
  const int64_t depth_, blocks_;
  // Of the current 16 columns.
  int64_t count_ = 0;
  __mmask16 mask_ = 0;
  const uint8_t* w_rows_[kFewColumns];
  const uint8_t* ahead_ = nullptr;  // what memory is asked for meanwhile
  int64_t panel_ = -1;              // that scales_ holds
  alignas(64) float scales_[kPanelBlocks * cpu::kGroupsOfBlock][kFewColumns];
};

template <bool kInt4, cpu::Int8Scaling kScaling>
CONCLAVE_NEVER_INLINE void RunFewInt8(const cpu::RawInt8Linear& args) {
  constexpr int64_t kCacheBytes = 512 << 10;  // of x, that stay in the second-level cache while weights pass by
  const int64_t rows = MaxOf(4, kCacheBytes / cpu::Int8RowBytes(args.x.depth) / 4 * 4);
  for (int64_t row = 0; row < args.x.rows; row += rows) {
    FewInt8<kInt4, kScaling>(args).Run(row, MinOf(row + rows, args.x.rows));
  }
}

// x: rows that lie one after the other.
inline void LinearInt8Few(const cpu::RawInt8Linear& args) {
  using cpu::Int8Scaling;
  const bool int4 = args.w.element == cpu::Element::kInt4;
  switch (cpu::ScalingOf(args.w, args.x.depth)) {
    case Int8Scaling::kRow:
      return int4 ? RunFewInt8<true, Int8Scaling::kRow>(args) : RunFewInt8<false, Int8Scaling::kRow>(args);
    case Int8Scaling::kBlock:
      return int4 ? RunFewInt8<true, Int8Scaling::kBlock>(args) : RunFewInt8<false, Int8Scaling::kBlock>(args);
    case Int8Scaling::kGroup:
      return int4 ? RunFewInt8<true, Int8Scaling::kGroup>(args) : LinearInt8Loops(args);
  }
}

}  // namespace conclave::CONCLAVE_ISA

#endif  // CONCLAVE_MOE_KERNELS_CPU_INT8_FEW_INL_
