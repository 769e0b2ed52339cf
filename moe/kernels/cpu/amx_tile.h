// The tile registers: 16 rows of 64 bytes. C[i][j] += sum over k of A[i][k] * B[k][j] by tdpbf16ps: products of pairs
// of bfloat16 in ascending order, each sum rounded to nearest even, subnormal numbers zero (Intel SDM, TDPBF16PS). What
// one element of C becomes depends on its row of A and its column of B alone: tests hold that against the hardware.
//
// Rows of A are rows of weights, as they lie in the checkpoint; columns of B are rows of x, packed. So weights need no
// rearranging, and one row of x costs one narrow B.
#ifndef CONCLAVE_MOE_KERNELS_CPU_AMX_TILE_H_
#define CONCLAVE_MOE_KERNELS_CPU_AMX_TILE_H_

#include <immintrin.h>

#include <cstdint>

#include "moe/kernels/cpu/vec.h"

namespace conclave::CONCLAVE_ISA {

inline constexpr int64_t kTileRows16 = 16;   // rows of A and C
inline constexpr int64_t kTileBytes = 1024;  // of a full tile

// Tiles 0-3: C of two tiles of A by two of B; 4, 5: A; 6, 7: B.
class TileShape {
 public:
  ~TileShape() {
    if (columns_[0] != 0) _tile_release();
  }

  // Rows of the two tiles of A, columns of the two of B. Loses the contents of all tiles where it changes something.
  void Set(int64_t rows0, int64_t rows1, int64_t columns0, int64_t columns1) {
    if (rows_[0] == rows0 && rows_[1] == rows1 && columns_[0] == columns0 && columns_[1] == columns1) return;
    rows_[0] = rows0, rows_[1] = rows1, columns_[0] = columns0, columns_[1] = columns1;
    Config config = {};
    config.palette = 1;
    for (int i = 0; i < 4; ++i) config.Put(i, rows_[i / 2], columns_[i % 2] * 4);
    for (int i = 0; i < 2; ++i) config.Put(4 + i, rows_[i], 64);
    for (int i = 0; i < 2; ++i) config.Put(6 + i, 16, columns_[i] * 4);
    // g++ 12's intrinsic names the first eight bytes alone as what it reads: all are to be stored before it.
    __asm__ volatile("" : : "r"(&config) : "memory");
    _tile_loadconfig(&config);
  }

 private:
  struct alignas(64) Config {
    uint8_t palette;
    uint8_t start_row;
    uint8_t reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
    void Put(int tile, int64_t tile_rows, int64_t tile_row_bytes) {
      rows[tile] = static_cast<uint8_t>(tile_rows);
      row_bytes[tile] = static_cast<uint16_t>(tile_row_bytes);
    }
  };
  static_assert(sizeof(Config) == 64);

  int64_t rows_[2] = {0, 0};
  int64_t columns_[2] = {0, 0};
};

// Lines that memory is asked for, into the second-level cache: four streams, which a processor follows by itself, but
// each of them only some lines ahead.
struct Streams {
  static constexpr int kLines = 4;  // of each, one after the other
  const uint8_t* first;
  int64_t stride;  // bytes between two streams
  // Stays where it is called: compilers move __builtin_prefetch to where a block begins, or drop it, and many at once
  // hold up the loads behind them.
  CONCLAVE_ALWAYS_INLINE void AskFor(int line) const {
    __asm__ volatile("prefetcht1 %0" : : "m"(first[line / kLines * stride + line % kLines * 64]));
  }
};

// The operands of `count` steps along the depth, 32 elements each.
struct TileSteps {
  const uint8_t* a[2];
  int64_t a_stride;  // bytes between rows
  int64_t a_step;    // bytes between steps
  const uint8_t* b[2];
  int64_t b_stride[2];
  int64_t count;
};

// Adds the steps to C. A step has kPlanes tiles of A, one after the other, for one B.
template <int kA, int kB, int kPlanes>
inline void MultiplyTiles(const TileSteps& steps) {
  const uint8_t* a0 = steps.a[0];
  const uint8_t* a1 = steps.a[1];
  const uint8_t* b0 = steps.b[0];
  const uint8_t* b1 = steps.b[1];
  for (int64_t i = 0; i < steps.count; ++i) {
    _tile_loadd(6, b0, steps.b_stride[0]);
    if constexpr (kB > 1) _tile_loadd(7, b1, steps.b_stride[1]);
#pragma GCC unroll 2
    for (int plane = 0; plane < kPlanes; ++plane) {
      _tile_loadd(4, a0, steps.a_stride);
      _tile_dpbf16ps(0, 4, 6);
      if constexpr (kB > 1) _tile_dpbf16ps(1, 4, 7);
      if constexpr (kA > 1) {
        _tile_loadd(5, a1, steps.a_stride);
        _tile_dpbf16ps(2, 5, 6);
        if constexpr (kB > 1) _tile_dpbf16ps(3, 5, 7);
      }
      a0 += steps.a_step;
      a1 += steps.a_step;
    }
    b0 += 16 * steps.b_stride[0];
    b1 += 16 * steps.b_stride[1];
  }
}

inline constexpr int kSumStride = 64;  // bytes between rows of a stored C

// C to or from memory: tile (i, j) of C is the kTileBytes at sums[i][j].
template <int kA, int kB>
inline void LoadSums(float* const (&sums)[2][2]) {
  _tile_loadd(0, sums[0][0], kSumStride);
  if constexpr (kB > 1) _tile_loadd(1, sums[0][1], kSumStride);
  if constexpr (kA > 1) _tile_loadd(2, sums[1][0], kSumStride);
  if constexpr (kA > 1 && kB > 1) _tile_loadd(3, sums[1][1], kSumStride);
}
template <int kA, int kB>
inline void ZeroSums() {
  _tile_zero(0);
  if constexpr (kB > 1) _tile_zero(1);
  if constexpr (kA > 1) _tile_zero(2);
  if constexpr (kA > 1 && kB > 1) _tile_zero(3);
}
template <int kA, int kB>
inline void StoreSums(float* const (&sums)[2][2]) {
  _tile_stored(0, sums[0][0], kSumStride);
  if constexpr (kB > 1) _tile_stored(1, sums[0][1], kSumStride);
  if constexpr (kA > 1) _tile_stored(2, sums[1][0], kSumStride);
  if constexpr (kA > 1 && kB > 1) _tile_stored(3, sums[1][1], kSumStride);
}

}  // namespace conclave::CONCLAVE_ISA

#endif  // CONCLAVE_MOE_KERNELS_CPU_AMX_TILE_H_
