// INT8 weights as tiles, as they lie in memory, where blocks of 128 columns or rows have a scale. tdpbusd multiplies
// their bytes, which are values and 128, by the integers of x; C begins with -128 times the sums of x.
#ifndef CONCLAVE_MOE_KERNELS_CPU_AMX_INT8_DIRECT_INL_
#define CONCLAVE_MOE_KERNELS_CPU_AMX_INT8_DIRECT_INL_

#include "moe/kernels/cpu/amx_int8_tiles.h"

namespace conclave::CONCLAVE_ISA {

template <cpu::Int8Scaling kScaling>
class DirectTiles {
 public:
  explicit DirectTiles(const cpu::RawInt8Linear& args)
      : args_(args), w_(args.w), depth_(args.x.depth), blocks_(cpu::Int8Blocks(depth_)) {}

  void Run(int64_t tile_begin, int64_t tile_end) {
    TileShape shape;
    for (int64_t n = args_.n_begin; n < args_.n_end; n += 2 * kTileRows16) {
      Begin(n);
      for (int64_t tile = tile_begin; tile < tile_end; tile += 2) {
        const Int8Tile x0(args_.x, tile), x1(args_.x, MinOf(tile + 1, tile_end - 1));
        const Int8Tile* x[2] = {&x0, &x1};
        const bool two = tile + 1 < tile_end;
        shape.Set(rows_[0], rows_[1] > 0 ? rows_[1] : kTileRows16, x0.columns, x1.columns);
        if (rows_[1] > 0) {
          two ? Multiply<2, 2>(n, x) : Multiply<2, 1>(n, x);
        } else {
          two ? Multiply<1, 2>(n, x) : Multiply<1, 1>(n, x);
        }
        ahead_ = nullptr;
        for (int64_t i = 0; i < 2 && rows_[i] > 0; ++i) {
          for (int64_t j = 0; j < (two ? 2 : 1); ++j) {
            StoreInt8Tile(args_, n + i * kTileRows16, rows_[i], tile + j, totals_[i * 2 + j], last_scales_[i]);
          }
        }
      }
    }
  }

 private:
  void Begin(int64_t n) {
    const int64_t count = MinOf(2 * kTileRows16, args_.n_end - n);
    rows_[0] = MinOf(kTileRows16, count);
    rows_[1] = count - rows_[0];
    for (int64_t i = 0; i < 2; ++i) last_scales_[i] = LastScales<kScaling>(w_.scales, n + i * kTileRows16, rows_[i]);
    ahead_ = n + 2 * kTileRows16 < args_.n_end ? w_.data + (n + 2 * kTileRows16) * w_.row_bytes : nullptr;
    const int64_t whole = depth_ / cpu::kInt8Block * cpu::kInt8Block;
    for (int64_t row = 0; row < count && whole < depth_; ++row) {
      __builtin_memcpy(last_[row], w_.data + (n + row) * w_.row_bytes + whole, depth_ - whole);
    }
    __asm__ volatile("" : : : "memory");  // tiles are loaded from what has been stored
  }

  template <int kA, int kB>
  CONCLAVE_NEVER_INLINE void Multiply(int64_t n, const Int8Tile* const (&x)[2]) {
    const uint8_t* a = w_.data + n * w_.row_bytes;
    Issue<kA, kB>(n, a, 0, x);
    if (blocks_ > 1) Issue<kA, kB>(n, a, 1, x);
    AddAll<kA, kB, true>(n, 0, x);
    for (int64_t block = 1; block < blocks_; ++block) {
      if (block + 1 < blocks_) Issue<kA, kB>(n, a, block + 1, x);
      AddAll<kA, kB, false>(n, block, x);
    }
  }

  template <int kA, int kB, bool kFirst>
  CONCLAVE_ALWAYS_INLINE void AddAll(int64_t n, int64_t block, const Int8Tile* const (&x)[2]) {
    for (int i = 0; i < kA; ++i) {
      for (int j = 0; j < kB; ++j) Add<kFirst>(n + i * kTileRows16, rows_[i], block, *x[j], i * 2 + j);
    }
  }

  // The dots of a block.
  template <int kA, int kB>
  CONCLAVE_ALWAYS_INLINE void Issue(int64_t n, const uint8_t* a, int64_t block, const Int8Tile* const (&x)[2]) {
    const bool whole = (block + 1) * cpu::kInt8Block <= depth_;
    const int64_t stride = whole ? w_.row_bytes : cpu::kInt8Block;
    const uint8_t* a0 = whole ? a + block * cpu::kInt8Block : last_[0];
    const uint8_t* a1 = a0 + kTileRows16 * stride;
    const int64_t columns[2] = {x[0]->columns, x[1]->columns};
    const int8_t* b0 = x[0]->codes + block * cpu::kInt8Block * columns[0];
    const int8_t* b1 = x[1]->codes + block * cpu::kInt8Block * columns[1];
    _tile_loadd(0, x[0]->block_sums + block * columns[0], 0);
    if constexpr (kB > 1) _tile_loadd(1, x[1]->block_sums + block * columns[1], 0);
    if constexpr (kA > 1) _tile_loadd(2, x[0]->block_sums + block * columns[0], 0);
    if constexpr (kA > 1 && kB > 1) _tile_loadd(3, x[1]->block_sums + block * columns[1], 0);
#pragma GCC unroll 2
    for (int64_t half = 0; half < 2; ++half) {
      _tile_loadd(6, b0 + half * 64 * columns[0], columns[0] * 4);
      if constexpr (kB > 1) _tile_loadd(7, b1 + half * 64 * columns[1], columns[1] * 4);
      _tile_loadd(4, a0 + half * 64, stride);
      _tile_dpbusd(0, 4, 6);
      if constexpr (kB > 1) _tile_dpbusd(1, 4, 7);
      if constexpr (kA > 1) {
        _tile_loadd(5, a1 + half * 64, stride);
        _tile_dpbusd(2, 5, 6);
        if constexpr (kB > 1) _tile_dpbusd(3, 5, 7);
      }
    }
    if (ahead_ != nullptr) {
      const uint8_t* ahead = ahead_ + block * 2 * kTileRows16 * cpu::kInt8Block;
      for (int64_t line = 0; line < 2 * kTileRows16 * cpu::kInt8Block; line += 64) {
        __builtin_prefetch(ahead + line, 0, 2);
      }
    }
    int32_t(*sums)[kTileSums] = sums_[block % 2];
    _tile_stored(0, sums[0], 64);
    if constexpr (kB > 1) _tile_stored(1, sums[1], 64);
    if constexpr (kA > 1) _tile_stored(2, sums[2], 64);
    if constexpr (kA > 1 && kB > 1) _tile_stored(3, sums[3], 64);
  }

  template <bool kFirst>
  CONCLAVE_ALWAYS_INLINE void Add(int64_t n, int64_t rows, int64_t block, const Int8Tile& x, int tile) {
    const V scales = ScalesOfTile(x, block);
    const int32_t* sums = sums_[block % 2][tile];
    float* totals = totals_[tile];
    if constexpr (kScaling == cpu::Int8Scaling::kBlock) {
      ReadGroupScales(w_.scales, n, rows, block * cpu::kInt8Block, cpu::kInt8Block, 1, scales_);
    }
#pragma GCC unroll 16
    for (int row = 0; row < 16; ++row) {
      V part = _mm512_cvtepi32_ps(_mm512_load_si512(sums + row * 16));
      if constexpr (kScaling == cpu::Int8Scaling::kBlock) part = Fma(part, Set(scales_[0][row]), Zero());
      Store(totals + row * 16, Fma(part, scales, kFirst ? Zero() : Load(totals + row * 16)));
    }
  }

  const cpu::RawInt8Linear& args_;
  const cpu::RawWeight& w_;
  const int64_t depth_, blocks_;
  int64_t rows_[2] = {0, 0};        // of the two tiles of A
  V last_scales_[2];                // of their rows
  const uint8_t* ahead_ = nullptr;  // what memory is asked for meanwhile
  alignas(64) float totals_[4][kTileSums];
  alignas(64) int32_t sums_[2][4][kTileSums] = {};
  alignas(64) float scales_[32][16];
  alignas(64) uint8_t last_[2 * kTileRows16][cpu::kInt8Block] = {};  // a block that ends at the depth
};

template <cpu::Int8Scaling kScaling>
CONCLAVE_NEVER_INLINE void RunDirectTiles(const cpu::RawInt8Linear& args) {
  const int64_t tiles = (args.x.rows + cpu::kInt8TileRows - 1) / cpu::kInt8TileRows;
  const int64_t step = Int8TilesAtATime(args.x.depth, tiles + 1);
  for (int64_t tile = 0; tile < tiles; tile += step) {
    DirectTiles<kScaling>(args).Run(tile, MinOf(tile + step, tiles));
  }
}

}  // namespace conclave::CONCLAVE_ISA

#endif  // CONCLAVE_MOE_KERNELS_CPU_AMX_INT8_DIRECT_INL_
