// Products of 8-bit integers by tiles (AMX): tdpbusd multiplies the stored bytes of weights, without a sign, by the
// signed ones of x. A row of the next panel of weights is copied (INT4: spread to bytes) between two products: reading
// row after row is what memory is fastest at. Empty where the compiler has no AMX.
#include "moe/kernels/cpu/raw_int8.h"

#if (defined(__AMX_INT8__) || defined(__AMXINT8__)) && defined(__AVX512F__)
#include "moe/kernels/cpu/amx_tile.h"
#include "moe/kernels/cpu/dot.h"
#include "moe/kernels/cpu/int8_pack.h"
#include "moe/kernels/cpu/tile.inl"
#include "moe/kernels/cpu/transpose16.h"

namespace conclave {
namespace CONCLAVE_ISA {

inline constexpr int64_t kInt8Block = 16;         // columns of a tile
inline constexpr int64_t kInt8PanelDepth = 1024;  // of x and w at a time
inline constexpr int64_t kInt8BlocksMax = 16;     // blocks of x at a time
inline constexpr int64_t kPanelGroups = kInt8PanelDepth / cpu::kInt8Group;

// 16 rows of weights with blocks of x.
template <bool kInt4>
class Int8Products {
 public:
  explicit Int8Products(const cpu::RawInt8Linear& args)
      : args_(args), w_(args.w), depth_(args.x.depth), one_scale_(w_.scales.block_cols >= depth_) {
    const int64_t columns = args.x.rows % kInt8Block;  // of the one block that may be narrow
    for (int64_t i = 0; i < kTileRows16 * columns; ++i) {
      row_of_sum_[i] = static_cast<int32_t>(i / columns);
      column_of_sum_[i] = static_cast<int32_t>(i % columns);
    }
  }

  void Run(int64_t first_block, int64_t blocks) {
    for (int64_t n = args_.n_begin; n < args_.n_end; n += kTileRows16) {
      const int64_t rows = MinOf(kTileRows16, args_.n_end - n);
      for (int64_t k = 0; k < depth_; k += kInt8PanelDepth) {
        const int64_t groups = cpu::Int8Groups(MinOf(kInt8PanelDepth, depth_ - k));
        if (next_n_ != n || next_k_ != k) Begin(n, k);
        SpreadRest();
        const uint8_t* a = bytes_[slot_];
        ReadPanelScales(n, rows, k, groups);
        BeginAfter(n, k);
        for (int64_t i = 0; i < blocks; ++i) {
          const Int8Block x(args_.x, kInt8Block, first_block + i);
          Configure(rows, x.columns);
          MultiplyPanel({a, k / cpu::kInt8Group, groups}, x, totals_[i]);
        }
      }
      for (int64_t i = 0; i < blocks; ++i) StoreRows(n, rows, first_block + i, totals_[i]);
    }
    if (columns_ != 0) _tile_release();
  }

 private:
  // Tile 0: C, 1: A, 2: B.
  void Configure(int64_t rows, int64_t columns) {
    if (rows == rows_ && columns == columns_) return;
    rows_ = rows, columns_ = columns;
    struct alignas(64) {
      uint8_t palette = 1, start_row = 0, reserved[14] = {};
      uint16_t row_bytes[16] = {};
      uint8_t rows[16] = {};
    } config;
    config.rows[0] = config.rows[1] = static_cast<uint8_t>(rows);
    config.rows[2] = 8;
    config.row_bytes[0] = config.row_bytes[2] = static_cast<uint16_t>(columns * 4);
    config.row_bytes[1] = cpu::kInt8Group;
    // g++ 12's intrinsic names the first eight bytes alone as what it reads: all are to be stored before it.
    __asm__ volatile("" : : "r"(&config) : "memory");
    _tile_loadconfig(&config);
  }

  // A panel that is spread to bytes, row by row: begun, gone on with, ended.
  void Begin(int64_t n, int64_t k) {
    next_n_ = n, next_k_ = k, next_row_ = 0;
    slot_ = 1 - slot_;
  }
  void BeginAfter(int64_t n, int64_t k) {
    if (k + kInt8PanelDepth < depth_) return Begin(n, k + kInt8PanelDepth);
    if (n + kTileRows16 < args_.n_end) return Begin(n + kTileRows16, 0);
    next_n_ = -1;
  }
  void SpreadRest() {
    while (next_row_ < kTileRows16) SpreadRow();
  }
  void SpreadRow() {
    constexpr int64_t kRowsAhead = kInt4 ? 8 : 4;  // four kilobytes that memory is asked for
    const int64_t row = next_row_++;
    if (next_n_ + row >= args_.n_end) return;
    const uint8_t* codes = w_.data + (next_n_ + row) * w_.row_bytes + (kInt4 ? next_k_ / 2 : next_k_);
    const uint8_t* ahead = codes + kRowsAhead * w_.row_bytes;
    uint8_t* out = bytes_[slot_] + row * kInt8PanelDepth;
    const int64_t count = MinOf(kInt8PanelDepth, depth_ - next_k_);
    for (int64_t i = 0; i < count; i += 64, out += 64) {
      if constexpr (kInt4) {
        if (i % 128 == 0) __builtin_prefetch(ahead + i / 2, 0, 2);
        const int64_t bytes = (count - i + 1) / 2;
        const __mmask32 mask = bytes >= 32 ? ~__mmask32{0} : (__mmask32{1} << bytes) - 1;
        const __m512i words = _mm512_cvtepu8_epi16(_mm256_maskz_loadu_epi8(mask, codes + i / 2));
        _mm512_store_si512(
            out, _mm512_and_si512(_mm512_or_si512(words, _mm512_slli_epi16(words, 4)), _mm512_set1_epi8(0xf)));
      } else {
        __builtin_prefetch(ahead + i, 0, 2);
        const __mmask64 mask = count - i >= 64 ? ~__mmask64{0} : (__mmask64{1} << (count - i)) - 1;
        _mm512_store_si512(out, _mm512_maskz_loadu_epi8(mask, codes + i));
      }
    }
  }

  // scales_[g] are the rows' scales of group g of the panel; [0] those of all, where there is one a row.
  void ReadPanelScales(int64_t n, int64_t rows, int64_t k, int64_t groups) {
    const cpu::RawScales& stored = w_.scales;
    if (one_scale_) {
      if (k > 0) return;
      for (int64_t row = 0; row < rows; ++row) scales_[0][row] = ReadScale(stored, (n + row) * stored.stride);
      return;
    }
    if (stored.block_cols != cpu::kInt8Group) {
      for (int64_t group = 0; group < groups; ++group) {
        const int64_t block = (k + group * cpu::kInt8Group) / stored.block_cols;
        for (int64_t row = 0; row < rows; ++row) {
          scales_[group][row] = ReadScale(stored, (n + row) * stored.stride + block);
        }
      }
      return;
    }
    for (int64_t group = 0; group < groups; group += 16) {
      alignas(64) float some[kTileRows16][16] = {};
      for (int64_t row = 0; row < rows; ++row) {
        ReadScales(stored, (n + row) * stored.stride + k / cpu::kInt8Group + group, MinOf(16, groups - group),
                   some[row]);
      }
      __m512i v[16];
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) v[i] = _mm512_load_si512(some[i]);
      Transpose16(v);
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) _mm512_store_si512(scales_[group + i], v[i]);
    }
  }

  struct Panel {
    const uint8_t* a;
    int64_t first;  // group of all
    int64_t groups;
  };
  void MultiplyPanel(const Panel& panel, const Int8Block& x, float* totals) {
    x.columns == kInt8Block ? MultiplyFull(panel, x, totals) : MultiplyNarrow(panel, x, totals);
  }

  // Sums of integers of a group of the panel; meanwhile a row of the next panel is spread.
  CONCLAVE_ALWAYS_INLINE void MultiplyGroup(const Panel& panel, const Int8Block& x, int64_t group) {
    const int64_t stride = x.columns * 4;
    _tile_zero(0);
    _tile_loadd(1, panel.a + group * cpu::kInt8Group, kInt8PanelDepth);
    _tile_loadd(2, x.codes + (panel.first + group) * cpu::kInt8Group * x.columns, stride);
    _tile_dpbusd(0, 1, 2);
    _tile_stored(0, sums_[group % kSumsMax], stride);
    if (next_n_ >= 0 && next_row_ < kTileRows16) SpreadRow();
  }

  // A group is added while the next one is multiplied, so that nothing waits for tiles.
  CONCLAVE_NEVER_INLINE void MultiplyFull(const Panel& panel, const Int8Block& x, float* totals) {
    V total[kTileRows16];
#pragma GCC unroll 16
    for (int64_t row = 0; row < kTileRows16; ++row) total[row] = panel.first == 0 ? Zero() : Load(totals + row * 16);
    MultiplyGroup(panel, x, 0);
    for (int64_t group = 0; group < panel.groups; ++group) {
      if (group + 1 < panel.groups) MultiplyGroup(panel, x, group + 1);
      const int32_t* sums = sums_[group % kSumsMax];
      const float* weight_scales = scales_[one_scale_ ? 0 : group];
      const int64_t at = (panel.first + group) * kInt8Block;
      const __m512i offsets = _mm512_slli_epi32(_mm512_loadu_si512(x.sums + at), kOffsetBits);
      const V x_scales = _mm512_loadu_ps(x.scales + at);
#pragma GCC unroll 16
      for (int64_t row = 0; row < kTileRows16; ++row) {
        const V dot = _mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_load_si512(sums + row * 16), offsets));
        total[row] = Fma(dot, Mul(x_scales, Set(weight_scales[row])), total[row]);
      }
    }
#pragma GCC unroll 16
    for (int64_t row = 0; row < kTileRows16; ++row) Store(totals + row * 16, total[row]);
  }

  CONCLAVE_NEVER_INLINE void MultiplyNarrow(const Panel& panel, const Int8Block& x, float* totals) {
    const __mmask16 mask = static_cast<__mmask16>((1u << x.columns) - 1);
    MultiplyGroup(panel, x, 0);
    for (int64_t group = 0; group < panel.groups; ++group) {
      if (group + 1 < panel.groups) MultiplyGroup(panel, x, group + 1);
      const int32_t* sums = sums_[group % kSumsMax];
      const V weight_scales = Load(scales_[one_scale_ ? 0 : group]);
      const int64_t at = (panel.first + group) * x.columns;
      const __m512i offsets = _mm512_slli_epi32(_mm512_maskz_loadu_epi32(mask, x.sums + at), kOffsetBits);
      const V x_scales = _mm512_maskz_loadu_ps(mask, x.scales + at);
      for (int64_t v = 0; v < x.columns; ++v) {
        const __m512i columns = _mm512_load_si512(column_of_sum_ + v * 16);
        const V scale = Mul(_mm512_permutexvar_ps(columns, x_scales),
                            _mm512_permutexvar_ps(_mm512_load_si512(row_of_sum_ + v * 16), weight_scales));
        const __m512i sum =
            _mm512_sub_epi32(_mm512_load_si512(sums + v * 16), _mm512_permutexvar_epi32(columns, offsets));
        const V before = panel.first + group == 0 ? Zero() : Load(totals + v * 16);
        Store(totals + v * 16, Fma(_mm512_cvtepi32_ps(sum), scale, before));
      }
    }
  }

  void StoreRows(int64_t n, int64_t rows, int64_t block, const float* totals) const {
    const int64_t columns = MinOf(kInt8Block, args_.x.rows - block * kInt8Block);
    const __mmask16 mask = static_cast<__mmask16>((1u << rows) - 1);
    float* y = args_.y + block * kInt8Block * args_.y_stride + n;
    if (columns == 1) return _mm512_mask_storeu_ps(y, mask, Load(totals));
    const __m512i index = _mm512_mullo_epi32(_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
                                             _mm512_set1_epi32(static_cast<int>(columns)));
    for (int64_t j = 0; j < columns; ++j) {
      _mm512_mask_storeu_ps(y + j * args_.y_stride, mask, _mm512_i32gather_ps(index, totals + j, 4));
    }
  }

  static constexpr int64_t kSumsMax = 4;
  static constexpr int kOffsetBits = kInt4 ? 3 : 7;  // codes are values and 8 or 128

  const cpu::RawInt8Linear& args_;
  const cpu::RawWeight& w_;
  const int64_t depth_;
  const bool one_scale_;
  int64_t rows_ = 0, columns_ = 0;                   // that the tiles are configured for
  int64_t next_n_ = -1, next_k_ = 0, next_row_ = 0;  // of the panel that is spread into bytes_[slot_]
  int slot_ = 0;
  alignas(64) float totals_[kInt8BlocksMax][kTileRows16 * kInt8Block];  // of a block: [16][columns]
  alignas(64) int32_t sums_[kSumsMax][kTileRows16 * kInt8Block];
  alignas(64) float scales_[kPanelGroups][kTileRows16] = {};
  alignas(64) int32_t row_of_sum_[kTileRows16 * kInt8Block];
  alignas(64) int32_t column_of_sum_[kTileRows16 * kInt8Block];
  alignas(64) uint8_t bytes_[2][kTileRows16 * kInt8PanelDepth];
};

template <bool kInt4>
CONCLAVE_NEVER_INLINE void LinearInt8Of(const cpu::RawInt8Linear& args) {
  const int64_t blocks = (args.x.rows + kInt8Block - 1) / kInt8Block;
  for (int64_t block = 0; block < blocks; block += kInt8BlocksMax) {
    Int8Products<kInt4>(args).Run(block, MinOf(kInt8BlocksMax, blocks - block));
  }
}

void LinearInt8(const cpu::RawInt8Linear& args) {
  args.w.element == cpu::Element::kInt4 ? LinearInt8Of<true>(args) : LinearInt8Of<false>(args);
}

}  // namespace CONCLAVE_ISA

namespace cpu {
extern constinit const RawInt8 kAmxInt8 = {CONCLAVE_ISA::kInt8Block, &CONCLAVE_ISA::PackInt8<CONCLAVE_ISA::kInt8Block>,
                                           &CONCLAVE_ISA::LinearInt8};
}  // namespace cpu
}  // namespace conclave

#else
namespace conclave::cpu {
extern constinit const RawInt8 kAmxInt8 = {16, nullptr, nullptr};
}  // namespace conclave::cpu
#endif
