// The tables of AMX: products of packed rows. Compiled with AMX and AVX-512 BF16; empty elsewhere.
#include "moe/kernels/cpu/raw_tiles.h"

// clang 14 writes its own name for the instruction set.
#if (defined(__AMX_BF16__) || defined(__AMXBF16__)) && defined(__AVX512BF16__)
#include "moe/kernels/cpu/amx_few.inl"
#include "moe/kernels/cpu/amx_pack.h"
#include "moe/kernels/cpu/amx_products.inl"
#include "moe/kernels/cpu/elementwise.h"
#include "moe/kernels/cpu/transpose16.h"

namespace conclave {
namespace CONCLAVE_ISA {

// Blocks of x that stay in the second-level cache while the weights of a call pass by.
inline int64_t BlocksAtATime(int64_t block_bytes) {
  constexpr int64_t kCacheBytes = 1 << 20;
  return MaxOf(2, MinOf(kBlocksMax, kCacheBytes / block_bytes));
}

// The kPlanes columns of a row are added: out[row * stride + i] = sum of row `i` of `sums` over the row's columns.
// Columns [0, columns) of `sums` belong to the rows from `out` on; `count` rows of `sums` are written.
template <int kPlanes>
void StoreRows(const float* sums, int64_t count, int64_t columns, float* out, int64_t stride) {
  const __mmask16 mask = static_cast<__mmask16>((1u << count) - 1);
  if (columns < 8) {
    const __m512i index = _mm512_mullo_epi32(_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
                                             _mm512_set1_epi32(16));
    for (int64_t j = 0; j < columns; j += kPlanes) {
      __m512 row = _mm512_i32gather_ps(index, sums + j, 4);
      for (int plane = 1; plane < kPlanes; ++plane) {
        row = _mm512_add_ps(row, _mm512_i32gather_ps(index, sums + j + plane, 4));
      }
      _mm512_mask_storeu_ps(out + j / kPlanes * stride, mask, row);
    }
    return;
  }
  __m512i v[16];
  for (int i = 0; i < 16; ++i) v[i] = _mm512_load_si512(sums + i * 16);
  Transpose16(v);
  for (int64_t j = 0; j < columns; j += kPlanes) {
    __m512 row = _mm512_castsi512_ps(v[j]);
    for (int plane = 1; plane < kPlanes; ++plane) row = _mm512_add_ps(row, _mm512_castsi512_ps(v[j + plane]));
    _mm512_mask_storeu_ps(out + j / kPlanes * stride, mask, row);
  }
}

// Vector `v` of the values of rows of x, one after the other, of rows of sums: their columns are added.
template <int kPlanes>
inline __m512 RowValues(const float* sums, int64_t v) {
  if constexpr (kPlanes == 1) return _mm512_load_ps(sums + v * 16);
  static_assert(kPlanes == 1 || kPlanes == 3);
  const __m512i index =
      _mm512_mullo_epi32(_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15), _mm512_set1_epi32(3));
  const float* first = sums + v * 48;
  const __m512 two = _mm512_add_ps(_mm512_i32gather_ps(index, first, 4), _mm512_i32gather_ps(index, first + 1, 4));
  return _mm512_add_ps(two, _mm512_i32gather_ps(index, first + 2, 4));
}

// As StoreRows, of sums that lie close together: [16][rows * kPlanes].
template <int kPlanes>
void StoreFewRows(const float* sums, int64_t count, int64_t rows, float* out, int64_t stride) {
  const __mmask16 mask = static_cast<__mmask16>((1u << count) - 1);
  alignas(64) float values[kFloatsOfTile];  // [16][rows]
  for (int64_t v = 0; v < rows; ++v) _mm512_store_ps(values + v * 16, RowValues<kPlanes>(sums, v));
  const __m512i index = _mm512_mullo_epi32(_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
                                           _mm512_set1_epi32(static_cast<int>(rows)));
  for (int64_t row = 0; row < rows; ++row) {
    _mm512_mask_storeu_ps(out + row * stride, mask, _mm512_i32gather_ps(index, values + row, 4));
  }
}

template <class Source, int kPlanes>
void FewLinearOf(const cpu::RawTileLinear& args, const PackedBlocks& x) {
  FewColumns<Source> products(x, &args.w, 1, args.x.depth);
  TileShape shape;
  for (int64_t n = args.n_begin; n < args.n_end; n += products.rows()) {
    products.Run(shape, n, args.n_end);
    for (int64_t row = n; row < MinOf(n + products.rows(), args.n_end); row += kTileRows16) {
      StoreFewRows<kPlanes>(products.Sums(row == n ? 0 : 1), MinOf(kTileRows16, args.n_end - row), args.x.rows,
                            args.y + row, args.y_stride);
    }
  }
}

template <class Source>
constexpr bool kMayBeFew = Source::kDirect || Source::kScaled;

template <class Source, int kPlanes>
CONCLAVE_NEVER_INLINE void LinearOf(const cpu::RawTileLinear& args) {
  const PackedBlocks x(args.x, kPlanes);
  if constexpr (kMayBeFew<Source>) {
    if (FewColumns<Source>::Takes(x, &args.w, 1, args.x.depth)) return FewLinearOf<Source, kPlanes>(args, x);
  }
  TileProducts<Source> products(x, args.w, args.x.depth);
  TileShape shape;
  constexpr int64_t kRowsOfBlock = cpu::BlockColumns(kPlanes) / kPlanes;
  const int64_t at_a_time = BlocksAtATime(x.block_bytes);
  for (int64_t block = 0; block < x.blocks(); block += at_a_time) {
    const int64_t blocks = MinOf(at_a_time, x.blocks() - block);
    for (int64_t n = args.n_begin; n < args.n_end; n += kGroupRows) {
      const int64_t count = MinOf(kGroupRows, args.n_end - n);
      products.Run(shape, n, count, block, blocks);
      for (int64_t j = 0; j < blocks; ++j) {
        float* y = args.y + (block + j) * kRowsOfBlock * args.y_stride + n;
        for (int64_t row = 0; row < count; row += kTileRows16) {
          StoreRows<kPlanes>(products.Sums(static_cast<int>(row / kTileRows16), j), MinOf(kTileRows16, count - row),
                             x.ColumnsOf(block + j), y + row, args.y_stride);
        }
      }
    }
  }
}

// Three planes: each column of a row gets the sum of the row's columns.
inline __m512 SumOfPlanes(__m512 v) {
  const __m512i first = _mm512_setr_epi32(0, 0, 0, 3, 3, 3, 6, 6, 6, 9, 9, 9, 12, 12, 12, 15);
  const __m512 one = _mm512_permutexvar_ps(first, v);
  const __m512 two = _mm512_permutexvar_ps(_mm512_add_epi32(first, _mm512_set1_epi32(1)), v);
  const __m512 three = _mm512_permutexvar_ps(_mm512_add_epi32(first, _mm512_set1_epi32(2)), v);
  return _mm512_add_ps(_mm512_add_ps(one, two), three);
}

inline __m512 SiluMulOf(__m512 gate, __m512 up) {
  return _mm512_mul_ps(_mm512_div_ps(gate, _mm512_add_ps(Set(1.0f), Exp(_mm512_sub_ps(Zero(), gate)))), up);
}

// silu(gate) * up of one row of sums, a value of each column; with planes, all columns of a row hold its value.
template <int kPlanes>
inline __m512 SwigluOf(__mmask16 mask, const float* gate, const float* up) {
  __m512 g = _mm512_maskz_load_ps(mask, gate);
  __m512 u = _mm512_maskz_load_ps(mask, up);
  if constexpr (kPlanes > 1) {
    g = SumOfPlanes(g);
    u = SumOfPlanes(u);
  }
  return SiluMulOf(g, u);
}

// The values' columns as bfloat16, each in the low half of its lane.
template <int kPlanes>
inline __m512i ColumnHalves(__m512 values) {
  const __m512i first = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(values));
  if constexpr (kPlanes == 1) return first;
  constexpr __mmask16 kSecondColumns = 0x2492, kThirdColumns = 0x4924;
  const __m512 left = LeftOver(values, _mm512_castsi512_ps(_mm512_slli_epi32(first, 16)));
  const __m512i second = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(left));
  const __m512 rest = LeftOver(left, _mm512_castsi512_ps(_mm512_slli_epi32(second, 16)));
  const __m512i third = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(rest));
  return _mm512_mask_mov_epi32(_mm512_mask_mov_epi32(first, kSecondColumns, second), kThirdColumns, third);
}

// Rows [0, count) of two sums become pairs of the packed block `out`, which has `columns` columns.
template <int kPlanes>
void StoreSwiglu(const float* gate, const float* up, int64_t count, int64_t columns, uint8_t* out) {
  const __mmask16 mask = static_cast<__mmask16>((1u << columns) - 1);
  for (int64_t row = 0; row < count; row += 2) {
    __m512i pair = ColumnHalves<kPlanes>(SwigluOf<kPlanes>(mask, gate + row * 16, up + row * 16));
    if (row + 1 < count) {
      const __m512i odd = ColumnHalves<kPlanes>(SwigluOf<kPlanes>(mask, gate + row * 16 + 16, up + row * 16 + 16));
      pair = _mm512_or_si512(pair, _mm512_slli_epi32(odd, 16));
    }
    _mm512_mask_storeu_epi32(out + row / 2 * columns * 4, mask, pair);
  }
}

// As StoreSwiglu, of sums that lie close together: [16][rows * kPlanes].
template <int kPlanes>
void StoreFewSwiglu(const float* gate, const float* up, int64_t count, int64_t rows, uint8_t* out) {
  alignas(64) float values[kFloatsOfTile + 16];  // [16][rows]
  for (int64_t v = 0; v < rows; ++v) {
    _mm512_store_ps(values + v * 16, SiluMulOf(RowValues<kPlanes>(gate, v), RowValues<kPlanes>(up, v)));
  }
  alignas(64) int32_t row_of_column[16];
  for (int32_t i = 0; i < 16; ++i) row_of_column[i] = i / kPlanes;
  const __m512i columns_of_rows = _mm512_load_si512(row_of_column);
  const auto halves_of = [&](int64_t row) {
    const __m512 of_rows = _mm512_loadu_ps(values + row * rows);
    return ColumnHalves<kPlanes>(kPlanes == 1 ? of_rows : _mm512_permutexvar_ps(columns_of_rows, of_rows));
  };
  const int64_t columns = rows * kPlanes;
  const __mmask16 mask = static_cast<__mmask16>((1u << columns) - 1);
  for (int64_t row = 0; row < count; row += 2) {
    __m512i pair = halves_of(row);
    if (row + 1 < count) pair = _mm512_or_si512(pair, _mm512_slli_epi32(halves_of(row + 1), 16));
    _mm512_mask_storeu_epi32(out + row / 2 * columns * 4, mask, pair);
  }
}

template <class Source, int kPlanes>
void FewSwigluOf(const cpu::RawTileSwiglu& args, const cpu::RawWeight (&weights)[2], const PackedBlocks& x) {
  FewColumns<Source> products(x, weights, 2, args.x.depth);
  TileShape shape;
  for (int64_t n = args.n_begin; n < args.n_end; n += products.rows()) {
    products.Run(shape, n, args.n_end);
    StoreFewSwiglu<kPlanes>(products.Sums(0), products.Sums(1), MinOf(kTileRows16, args.n_end - n), args.x.rows,
                            args.out.data + n / 2 * x.columns * 4);
  }
  if (args.n_end == args.out.depth) ZeroPadding(args.out, kPlanes);
}

template <class Source, int kPlanes>
CONCLAVE_NEVER_INLINE void SwigluOfRows(const cpu::RawTileSwiglu& args) {
  const PackedBlocks x(args.x, kPlanes);
  if constexpr (kMayBeFew<Source>) {
    const cpu::RawWeight weights[2] = {args.gate, args.up};
    if (FewColumns<Source>::Takes(x, weights, 2, args.x.depth)) return FewSwigluOf<Source, kPlanes>(args, weights, x);
  }
  const PackedBlocks out(args.out, kPlanes);
  TileProducts<Source> gate(x, args.gate, args.x.depth, 0), up(x, args.up, args.x.depth, 1);
  TileShape shape;
  const int64_t at_a_time = BlocksAtATime(x.block_bytes);
  for (int64_t block = 0; block < x.blocks(); block += at_a_time) {
    const int64_t blocks = MinOf(at_a_time, x.blocks() - block);
    for (int64_t n = args.n_begin; n < args.n_end; n += kGroupRows) {
      const int64_t count = MinOf(kGroupRows, args.n_end - n);
      gate.Run(shape, n, count, block, blocks);
      up.Run(shape, n, count, block, blocks);
      for (int64_t j = 0; j < blocks; ++j) {
        const int64_t columns = x.ColumnsOf(block + j);
        for (int64_t row = 0; row < count; row += kTileRows16) {
          const int tile = static_cast<int>(row / kTileRows16);
          uint8_t* pairs = const_cast<uint8_t*>(out.At(block + j, 0)) + (n + row) / 2 * columns * 4;
          StoreSwiglu<kPlanes>(gate.Sums(tile, j), up.Sums(tile, j), MinOf(kTileRows16, count - row), columns, pairs);
        }
      }
    }
  }
  if (args.n_end == args.out.depth) ZeroPadding(args.out, kPlanes);
}

// Calls run.template operator()<Source>() for how the weights are stored. Rounded: float32 weights become one
// bfloat16, as x does.
template <bool kRounded, class Run>
inline void ForSource(cpu::Element element, const Run& run) {
  switch (element) {
    case cpu::Element::kF32:
      if constexpr (kRounded) return run.template operator()<TileF32Rounded>();
      return run.template operator()<TileF32>();
    case cpu::Element::kBf16:
      return run.template operator()<TileBf16>();
    case cpu::Element::kF16:
      return run.template operator()<TileF16>();
    case cpu::Element::kF8E4M3:
      return run.template operator()<TileF8>();
    case cpu::Element::kInt8:
      return run.template operator()<TileInt8>();
    case cpu::Element::kInt4:
      return run.template operator()<TileInt4>();
  }
}

template <int kPlanes>
void TileLinear(const cpu::RawTileLinear& args) {
  ForSource<kPlanes == 1>(args.w.element, [&]<class Source>() { LinearOf<Source, kPlanes>(args); });
}

template <int kPlanes>
void TileSwiglu(const cpu::RawTileSwiglu& args) {
  ForSource<kPlanes == 1>(args.gate.element, [&]<class Source>() { SwigluOfRows<Source, kPlanes>(args); });
}

template <int kPlanes>
constexpr cpu::RawTiles Table() {
  return {kPlanes, &PackRows<kPlanes>, &TileLinear<kPlanes>, &TileSwiglu<kPlanes>};
}

}  // namespace CONCLAVE_ISA

namespace cpu {
extern constinit const RawTiles kAmxBf16 = CONCLAVE_ISA::Table<1>();
extern constinit const RawTiles kAmxBf16x3 = CONCLAVE_ISA::Table<3>();
}  // namespace cpu
}  // namespace conclave

#else
namespace conclave::cpu {
extern constinit const RawTiles kAmxBf16 = {1, nullptr, nullptr, nullptr};
extern constinit const RawTiles kAmxBf16x3 = {3, nullptr, nullptr, nullptr};
}  // namespace conclave::cpu
#endif
