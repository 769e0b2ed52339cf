// INT4 weights as tiles, and INT8 ones with a scale for a group of 32 columns: 16 rows are spread to signed bytes, for
// tdpbssd. A row of the next panel is spread between two products, so that memory is read row after row meanwhile.
#ifndef CONCLAVE_MOE_KERNELS_CPU_AMX_INT8_COPIED_INL_
#define CONCLAVE_MOE_KERNELS_CPU_AMX_INT8_COPIED_INL_

#include "moe/kernels/cpu/amx_int8_tiles.h"

namespace conclave::CONCLAVE_ISA {

template <bool kInt4, cpu::Int8Scaling kScaling>
class CopiedTiles {
 public:
  static constexpr int64_t kTilesMax = 16;  // of x at a time

  explicit CopiedTiles(const cpu::RawInt8Linear& args) : args_(args), w_(args.w), depth_(args.x.depth) {}

  void Run(int64_t tile_begin, int64_t tile_end) {
    for (int64_t n = args_.n_begin; n < args_.n_end; n += kTileRows16) {
      const int64_t rows = MinOf(kTileRows16, args_.n_end - n);
      for (int64_t k = 0; k < depth_; k += kPanelDepth) {
        if (next_n_ != n || next_k_ != k) Begin(n, k);
        while (next_row_ < kTileRows16) SpreadRow();
        __asm__ volatile("" : : : "memory");  // tiles are loaded from what has been stored
        const int64_t groups = (MinOf(kPanelDepth, depth_ - k) + kScaleColumns - 1) / kScaleColumns;
        if (kScaling != cpu::Int8Scaling::kRow) ReadGroupScales(w_.scales, n, rows, k, kScaleColumns, groups, scales_);
        const int8_t* a = bytes_[slot_];
        BeginAfter(n, k);
        for (int64_t tile = tile_begin; tile < tile_end; ++tile) {
          const Int8Tile x(args_.x, tile);
          Configure(rows, x.columns);
          MultiplyPanel(a, k / cpu::kInt8Block, x, totals_[tile - tile_begin]);
        }
      }
      const V scales = LastScales<kScaling>(w_.scales, n, rows);
      for (int64_t tile = tile_begin; tile < tile_end; ++tile) {
        StoreInt8Tile(args_, n, rows, tile, totals_[tile - tile_begin], scales);
      }
    }
    if (columns_ != 0) _tile_release();
  }

 private:
  static constexpr bool kGroups = kScaling == cpu::Int8Scaling::kGroup;
  static constexpr int64_t kScaleColumns = kGroups ? cpu::kInt8Group : cpu::kInt8Block;
  static constexpr int64_t kPanelDepth = 1024;  // of x and w at a time
  static constexpr int64_t kPanelBlocks = kPanelDepth / cpu::kInt8Block;
  static constexpr int64_t kSteps = kGroups ? 4 : 2;                // along a block
  static constexpr int64_t kStepDepth = cpu::kInt8Block / kSteps;  // bytes of a row of A
  static constexpr int64_t kSumsOfBlock = kGroups ? 4 : 1;         // tiles of C

  // Tiles 0-3: C; 4, 5: A; 6, 7: B.
  void Configure(int64_t rows, int64_t columns) {
    if (rows == rows_ && columns == columns_) return;
    rows_ = rows, columns_ = columns;
    struct alignas(64) {
      uint8_t palette = 1, start_row = 0, reserved[14] = {};
      uint16_t row_bytes[16] = {};
      uint8_t rows[16] = {};
    } config;
    for (int i = 0; i < 8; ++i) {
      config.rows[i] = static_cast<uint8_t>(i < 6 ? rows : kStepDepth / 4);
      config.row_bytes[i] = static_cast<uint16_t>(i == 4 || i == 5 ? kStepDepth : columns * 4);
    }
    // g++ 12's intrinsic names the first eight bytes alone as what it reads: all are to be stored before it.
    __asm__ volatile("" : : "r"(&config) : "memory");
    _tile_loadconfig(&config);
  }

  // A panel that is spread to bytes, row by row: begun, gone on with.
  void Begin(int64_t n, int64_t k) {
    next_n_ = n, next_k_ = k, next_row_ = 0;
    slot_ = 1 - slot_;
  }
  void BeginAfter(int64_t n, int64_t k) {
    if (k + kPanelDepth < depth_) return Begin(n, k + kPanelDepth);
    if (n + kTileRows16 < args_.n_end) return Begin(n + kTileRows16, 0);
    next_n_ = -1;
  }
  void SpreadRow() {
    constexpr int64_t kRowsAhead = kInt4 ? 8 : 4;  // four kilobytes that memory is asked for
    const int64_t row = next_row_++;
    if (next_n_ + row >= args_.n_end) return;
    const uint8_t* codes = w_.data + (next_n_ + row) * w_.row_bytes + (kInt4 ? next_k_ / 2 : next_k_);
    const uint8_t* ahead = codes + kRowsAhead * w_.row_bytes;
    int8_t* out = bytes_[slot_] + row * kPanelDepth;
    const int64_t count = MinOf(kPanelDepth, depth_ - next_k_);
    for (int64_t i = 0; i < count; i += 64, out += 64) {
      if constexpr (kInt4) {
        if (i % 128 == 0) __builtin_prefetch(ahead + i / 2, 0, 2);
        const int64_t bytes = (count - i + 1) / 2;
        const __mmask32 mask = bytes >= 32 ? ~__mmask32{0} : (__mmask32{1} << bytes) - 1;
        const __m512i words = _mm512_cvtepu8_epi16(_mm256_maskz_loadu_epi8(mask, codes + i / 2));
        const __m512i halves = _mm512_or_si512(words, _mm512_slli_epi16(words, 4));
        _mm512_store_si512(
            out, _mm512_sub_epi8(_mm512_and_si512(halves, _mm512_set1_epi8(0xf)), _mm512_set1_epi8(8)));
      } else {
        __builtin_prefetch(ahead + i, 0, 2);
        const __mmask64 mask = count - i >= 64 ? ~__mmask64{0} : (__mmask64{1} << (count - i)) - 1;
        _mm512_store_si512(out, _mm512_xor_si512(_mm512_maskz_loadu_epi8(mask, codes + i), _mm512_set1_epi8(-128)));
      }
    }
  }

  // The dots of a block of the panel; meanwhile two rows of the next panel are spread.
  CONCLAVE_ALWAYS_INLINE void Issue(const int8_t* a, int64_t block, int64_t first, const Int8Tile& x) {
    a += block * cpu::kInt8Block;
    const int64_t stride = x.columns * 4;
    const int8_t* b = x.codes + (first + block) * cpu::kInt8Block * x.columns;
    const int64_t b_step = kStepDepth * x.columns;
    _tile_zero(0);
    if constexpr (kGroups) {
      _tile_zero(1);
      _tile_zero(2);
      _tile_zero(3);
    }
    _tile_loadd(4, a, kPanelDepth);
    _tile_loadd(6, b, stride);
    _tile_dpbssd(0, 4, 6);
    _tile_loadd(5, a + kStepDepth, kPanelDepth);
    _tile_loadd(7, b + b_step, stride);
    if constexpr (kGroups) {
      _tile_dpbssd(1, 5, 7);
      _tile_loadd(4, a + 2 * kStepDepth, kPanelDepth);
      _tile_loadd(6, b + 2 * b_step, stride);
      _tile_dpbssd(2, 4, 6);
      _tile_loadd(5, a + 3 * kStepDepth, kPanelDepth);
      _tile_loadd(7, b + 3 * b_step, stride);
      _tile_dpbssd(3, 5, 7);
    } else {
      _tile_dpbssd(0, 5, 7);
    }
    int32_t(*sums)[kTileSums] = sums_[block % 2];
    _tile_stored(0, sums[0], 64);
    if constexpr (kGroups) {
      _tile_stored(1, sums[1], 64);
      _tile_stored(2, sums[2], 64);
      _tile_stored(3, sums[3], 64);
    }
    for (int i = 0; i < 2 && next_n_ >= 0 && next_row_ < kTileRows16; ++i) SpreadRow();
  }

  // A block is added while the next one is multiplied, so that nothing waits for tiles.
  CONCLAVE_NEVER_INLINE void MultiplyPanel(const int8_t* a, int64_t first, const Int8Tile& x, float* totals) {
    V total[16];
#pragma GCC unroll 16
    for (int row = 0; row < 16; ++row) total[row] = first == 0 ? Zero() : Load(totals + row * 16);
    const int64_t blocks = MinOf(kPanelBlocks, cpu::Int8Blocks(depth_) - first);
    Issue(a, 0, first, x);
    for (int64_t block = 0; block < blocks; ++block) {
      if (block + 1 < blocks) Issue(a, block + 1, first, x);
      const V x_scales = ScalesOfTile(x, first + block);
      const int32_t(*sums)[kTileSums] = sums_[block % 2];
      const float(*scales)[16] = scales_ + block * kSumsOfBlock;
#pragma GCC unroll 16
      for (int row = 0; row < 16; ++row) {
        V part = Dots(sums[0], row);
        if constexpr (kScaling != cpu::Int8Scaling::kRow) part = Fma(part, Set(scales[0][row]), Zero());
        if constexpr (kGroups) {
          part = Fma(Dots(sums[1], row), Set(scales[1][row]), part);
          part = Fma(Dots(sums[2], row), Set(scales[2][row]), part);
          part = Fma(Dots(sums[3], row), Set(scales[3][row]), part);
        }
        total[row] = Fma(part, x_scales, total[row]);
      }
    }
#pragma GCC unroll 16
    for (int row = 0; row < 16; ++row) Store(totals + row * 16, total[row]);
  }
  static V Dots(const int32_t* sums, int row) { return _mm512_cvtepi32_ps(_mm512_load_si512(sums + row * 16)); }

  const cpu::RawInt8Linear& args_;
  const cpu::RawWeight& w_;
  const int64_t depth_;
  int64_t rows_ = 0, columns_ = 0;                   // that the tiles are configured for
  int64_t next_n_ = -1, next_k_ = 0, next_row_ = 0;  // of the panel that is spread into bytes_[slot_]
  int slot_ = 0;
  alignas(64) float totals_[kTilesMax][kTileSums];
  alignas(64) int32_t sums_[2][kSumsOfBlock][kTileSums] = {};
  alignas(64) float scales_[32][16] = {};
  alignas(64) int8_t bytes_[2][kTileRows16 * kPanelDepth] = {};
};

template <bool kInt4, cpu::Int8Scaling kScaling>
CONCLAVE_NEVER_INLINE void RunCopiedTiles(const cpu::RawInt8Linear& args) {
  using Tiles = CopiedTiles<kInt4, kScaling>;
  const int64_t tiles = (args.x.rows + cpu::kInt8TileRows - 1) / cpu::kInt8TileRows;
  const int64_t step = Int8TilesAtATime(args.x.depth, Tiles::kTilesMax);
  for (int64_t tile = 0; tile < tiles; tile += step) Tiles(args).Run(tile, MinOf(tile + step, tiles));
}

}  // namespace conclave::CONCLAVE_ISA

#endif  // CONCLAVE_MOE_KERNELS_CPU_AMX_INT8_COPIED_INL_
