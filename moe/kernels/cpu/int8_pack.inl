// Quantises rows of x: raw_int8.h has the formula and the layouts.
#ifndef CONCLAVE_MOE_KERNELS_CPU_INT8_PACK_INL_
#define CONCLAVE_MOE_KERNELS_CPU_INT8_PACK_INL_

#include <cstdint>

#include "moe/kernels/cpu/raw_int8.h"
#include "moe/kernels/cpu/vec.h"
#if defined(CONCLAVE_ISA_AVX512)
#include "moe/kernels/cpu/transpose16.h"
#endif

namespace conclave::CONCLAVE_ISA {

template <class To, class From>
inline To BitCast(From value) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  __builtin_memcpy(&to, &value, sizeof(to));
  return to;
}

// Where the parts of a row begin, of rows that lie one after the other.
struct Int8Row {
  int8_t* codes;
  int8_t* halves;  // even columns of a block, then odd ones
  float* scales;
  int32_t* group_sums;  // times -8
  int32_t* block_sums;  // times -128

  Int8Row() = default;
  Int8Row(const cpu::RawInt8Rows& x, int64_t row) {
    const int64_t blocks = cpu::Int8Blocks(x.depth);
    codes = reinterpret_cast<int8_t*>(x.data + row * cpu::Int8RowBytes(x.depth));
    halves = codes + blocks * cpu::kInt8Block;
    scales = reinterpret_cast<float*>(halves + blocks * cpu::kInt8Block);
    group_sums = reinterpret_cast<int32_t*>(scales + blocks);
    block_sums = group_sums + blocks * cpu::kGroupsOfBlock;
  }
};

// The same of a tile.
struct Int8Tile {
  int8_t* codes;
  float* scales;
  int32_t* block_sums;  // times -128
  int64_t columns;

  Int8Tile(const cpu::RawInt8Rows& x, int64_t index) {
    const int64_t blocks = cpu::Int8Blocks(x.depth), first = index * cpu::kInt8TileRows;
    columns = x.rows - first < cpu::kInt8TileRows ? x.rows - first : cpu::kInt8TileRows;
    codes = reinterpret_cast<int8_t*>(x.data + first * cpu::Int8RowBytes(x.depth));
    scales = reinterpret_cast<float*>(codes + blocks * cpu::kInt8Block * columns);
    block_sums = reinterpret_cast<int32_t*>(scales + blocks * columns);
  }
};

struct QuantisedBlock {
  alignas(64) int8_t codes[cpu::kInt8Block];
  float scale;
  int32_t group_sums[cpu::kGroupsOfBlock];
};

// The bits of the largest magnitude of a block; those of NaN are above all others.
inline uint32_t LargestMagnitude(const float* x) {
#if defined(CONCLAVE_ISA_AVX512)
  const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
  __m512i largest = _mm512_setzero_si512();
  for (int i = 0; i < cpu::kInt8Block; i += 16) {
    largest = _mm512_max_epu32(largest, _mm512_and_si512(_mm512_loadu_si512(x + i), magnitude));
  }
  return _mm512_reduce_max_epu32(largest);
#else
  uint32_t largest = 0;
  for (int i = 0; i < cpu::kInt8Block; ++i) {
    const uint32_t magnitude = BitCast<uint32_t>(x[i]) & 0x7fffffffu;
    largest = magnitude > largest ? magnitude : largest;
  }
  return largest;
#endif
}

// A block with a value that is not finite gets the scale NaN; one whose largest magnitude is below 1e-30 becomes zero.
inline void QuantiseBlock(const float* x, QuantisedBlock& out) {
  const uint32_t largest_bits = LargestMagnitude(x);
  const float largest = BitCast<float>(largest_bits);
  const bool finite = largest_bits < 0x7f800000u, small = largest < 1e-30f;
  out.scale = !finite ? BitCast<float>(0x7fc00000u) : small ? 0.0f : largest / 127.0f;
  const float factor = !finite || small ? 0.0f : 127.0f / largest;
#if defined(CONCLAVE_ISA_AVX512)
  for (int group = 0; group < cpu::kGroupsOfBlock; ++group) {
    __m512i sum = _mm512_setzero_si512();
    for (int i = 0; i < cpu::kInt8Group; i += 16) {
      const int at = group * cpu::kInt8Group + i;
      __m512i codes = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x + at), _mm512_set1_ps(factor)));
      if (!finite) codes = _mm512_setzero_si512();
      _mm_store_si128(reinterpret_cast<__m128i*>(out.codes + at), _mm512_cvtepi32_epi8(codes));
      sum = _mm512_add_epi32(sum, codes);
    }
    out.group_sums[group] = _mm512_reduce_add_epi32(sum);
  }
#else
  constexpr float kMagic = 0x1.8p23f;  // added, it leaves the nearest integer in the lower bits
  for (int group = 0; group < cpu::kGroupsOfBlock; ++group) {
    const float* from = x + group * cpu::kInt8Group;
    int8_t* codes = out.codes + group * cpu::kInt8Group;
    int32_t sum = 0;
    for (int i = 0; i < cpu::kInt8Group; ++i) {
      const float value = finite ? from[i] * factor : 0.0f;
      const int32_t code = BitCast<int32_t>(value + kMagic) - BitCast<int32_t>(kMagic);
      codes[i] = static_cast<int8_t>(code);
      sum += code;
    }
    out.group_sums[group] = sum;
  }
#endif
}

inline void StoreBlock(const QuantisedBlock& block, int64_t index, const Int8Row& out) {
  int8_t* codes = out.codes + index * cpu::kInt8Block;
  int8_t* halves = out.halves + index * cpu::kInt8Block;
  __builtin_memcpy(codes, block.codes, cpu::kInt8Block);
  for (int i = 0; i < cpu::kInt8Block / 2; ++i) {
    halves[i] = block.codes[2 * i];
    halves[cpu::kInt8Block / 2 + i] = block.codes[2 * i + 1];
  }
  out.scales[index] = block.scale;
  int32_t sum = 0;
  for (int i = 0; i < cpu::kGroupsOfBlock; ++i) {
    out.group_sums[index * cpu::kGroupsOfBlock + i] = -8 * block.group_sums[i];
    sum += block.group_sums[i];
  }
  out.block_sums[index] = -128 * sum;
}

inline void StoreBlock(const QuantisedBlock& block, int64_t index, const Int8Tile& out, int64_t column) {
  constexpr int64_t kWords = cpu::kInt8Block / 4;
  int8_t* codes = out.codes + (index * kWords * out.columns + column) * 4;
  for (int64_t i = 0; i < kWords; ++i) __builtin_memcpy(codes + i * out.columns * 4, block.codes + i * 4, 4);
  out.scales[index * out.columns + column] = block.scale;
  int32_t sum = 0;
  for (int i = 0; i < cpu::kGroupsOfBlock; ++i) sum += block.group_sums[i];
  out.block_sums[index * out.columns + column] = -128 * sum;
}

// Columns [k, k + 128) of a row of x, those past `k_end` zeros.
inline void ReadBlock(const cpu::RawInt8Pack& args, int64_t row, int64_t k, float* x) {
  const int64_t source = (args.indexes == nullptr ? row : args.indexes[row]) * args.x_stride + k - args.k_begin;
  const int64_t count = args.k_end - k < cpu::kInt8Block ? args.k_end - k : cpu::kInt8Block;
  for (int64_t i = count; i < cpu::kInt8Block; ++i) x[i] = 0;
  if (!args.x_is_bf16) {
    __builtin_memcpy(x, static_cast<const float*>(args.x) + source, count * sizeof(float));
    return;
  }
  const uint16_t* halves = static_cast<const uint16_t*>(args.x) + source;
  for (int64_t i = 0; i < count; ++i) x[i] = BitCast<float>(static_cast<uint32_t>(halves[i]) << 16);
}

#if defined(CONCLAVE_ISA_AVX512)
// A whole tile: sixteen words of sixteen rows at a time.
inline void PackTile(const cpu::RawInt8Pack& args, int64_t index) {
  const Int8Tile out(args.out, index);
  for (int64_t k = args.k_begin; k < args.k_end; k += cpu::kInt8Block) {
    const int64_t block = k / cpu::kInt8Block;
    QuantisedBlock rows[cpu::kInt8TileRows];
    for (int64_t row = 0; row < cpu::kInt8TileRows; ++row) {
      alignas(64) float x[cpu::kInt8Block];
      ReadBlock(args, index * cpu::kInt8TileRows + row, k, x);
      QuantiseBlock(x, rows[row]);
      out.scales[block * cpu::kInt8TileRows + row] = rows[row].scale;
      const int32_t* sums = rows[row].group_sums;
      out.block_sums[block * cpu::kInt8TileRows + row] = -128 * (sums[0] + sums[1] + sums[2] + sums[3]);
    }
    int8_t* codes = out.codes + block * cpu::kInt8Block * cpu::kInt8TileRows;
    for (int64_t half = 0; half < 2; ++half) {
      __m512i v[16];
#pragma GCC unroll 16
      for (int row = 0; row < 16; ++row) v[row] = _mm512_load_si512(rows[row].codes + half * 64);
      Transpose16(v);
#pragma GCC unroll 16
      for (int word = 0; word < 16; ++word) _mm512_storeu_si512(codes + (half * 16 + word) * 64, v[word]);
    }
  }
}
#endif

template <int64_t kPlainRowsMax>
void PackInt8(const cpu::RawInt8Pack& args) {
  for (int64_t row = args.begin; row < args.end; ++row) {
#if defined(CONCLAVE_ISA_AVX512)
    if (args.out.rows > kPlainRowsMax && row % cpu::kInt8TileRows == 0 && row + cpu::kInt8TileRows <= args.end) {
      PackTile(args, row / cpu::kInt8TileRows);
      row += cpu::kInt8TileRows - 1;
      continue;
    }
#endif
    for (int64_t k = args.k_begin; k < args.k_end; k += cpu::kInt8Block) {
      alignas(64) float x[cpu::kInt8Block];
      ReadBlock(args, row, k, x);
      QuantisedBlock block;
      QuantiseBlock(x, block);
      if (args.out.rows <= kPlainRowsMax) {
        StoreBlock(block, k / cpu::kInt8Block, Int8Row(args.out, row));
      } else {
        StoreBlock(block, k / cpu::kInt8Block, Int8Tile(args.out, row / cpu::kInt8TileRows),
                   row % cpu::kInt8TileRows);
      }
    }
  }
}

}  // namespace conclave::CONCLAVE_ISA

#endif  // CONCLAVE_MOE_KERNELS_CPU_INT8_PACK_INL_
