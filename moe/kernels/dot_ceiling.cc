#include "moe/kernels/dot_ceiling.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace conclave {
namespace {

// More than latency times throughput of a multiply-add anywhere: 4 cycles, 2 a cycle.
constexpr int kChains = 12;

thread_local volatile float sink;

// Chains begin with different numbers, or a compiler sees that all are the same and keeps one.
float Seed(int chain) { return static_cast<float>(chain); }

double RunPlain(int64_t rounds) {
  typedef float Vector __attribute__((vector_size(16)));
  const Vector x = {0.5f, 0.5f, 0.5f, 0.5f}, y = {1, 1, 1, 1};
  Vector sums[kChains];
  for (int i = 0; i < kChains; ++i) sums[i] = Vector{Seed(i), 0, 0, 0};
  for (int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 12
    for (int i = 0; i < kChains; ++i) sums[i] = sums[i] * x + y;
  }
  for (const Vector& sum : sums) sink = sum[0];
  return static_cast<double>(rounds) * kChains * 4 * 2;
}

#if defined(__x86_64__)

__attribute__((target("avx2,fma"))) double RunAvx2(int64_t rounds) {
  const __m256 x = _mm256_set1_ps(0.5f), y = _mm256_set1_ps(1);
  __m256 sums[kChains];
  for (int i = 0; i < kChains; ++i) sums[i] = _mm256_set1_ps(Seed(i));
  for (int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 12
    for (int i = 0; i < kChains; ++i) sums[i] = _mm256_fmadd_ps(sums[i], x, y);
  }
  for (const __m256& sum : sums) sink = _mm256_cvtss_f32(sum);
  return static_cast<double>(rounds) * kChains * 8 * 2;
}

__attribute__((target("avx512f"))) double RunAvx512(int64_t rounds) {
  const __m512 x = _mm512_set1_ps(0.5f), y = _mm512_set1_ps(1);
  __m512 sums[kChains];
  for (int i = 0; i < kChains; ++i) sums[i] = _mm512_set1_ps(Seed(i));
  for (int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 12
    for (int i = 0; i < kChains; ++i) sums[i] = _mm512_fmadd_ps(sums[i], x, y);
  }
  for (const __m512& sum : sums) sink = _mm512_cvtss_f32(sum);
  return static_cast<double>(rounds) * kChains * 16 * 2;
}

__attribute__((target("avx512f,avx512bf16"))) double RunAvx512Bf16(int64_t rounds) {
  const __m512bh x = _mm512_cvtne2ps_pbh(_mm512_set1_ps(0.5f), _mm512_set1_ps(0.25f));
  __m512 sums[kChains];
  for (int i = 0; i < kChains; ++i) sums[i] = _mm512_set1_ps(Seed(i));
  for (int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 12
    for (int i = 0; i < kChains; ++i) sums[i] = _mm512_dpbf16_ps(sums[i], x, x);
  }
  for (const __m512& sum : sums) sink = _mm512_cvtss_f32(sum);
  return static_cast<double>(rounds) * kChains * 32 * 2;
}

__attribute__((target("avx512f,avx512bw"))) double RunAvx512Bytes(int64_t rounds) {
  const __m512i x = _mm512_set1_epi8(3), ones = _mm512_set1_epi16(1);
  __m512i sums[kChains];
  for (int i = 0; i < kChains; ++i) sums[i] = _mm512_set1_epi32(i);
  for (int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 12
    for (int i = 0; i < kChains; ++i) {
      sums[i] = _mm512_add_epi32(sums[i], _mm512_madd_epi16(_mm512_maddubs_epi16(x, sums[i]), ones));
    }
  }
  for (const __m512i& sum : sums) sink = static_cast<float>(_mm512_cvtsi512_si32(sum));
  return static_cast<double>(rounds) * kChains * 64 * 2;
}

__attribute__((target("avx512f,avx512vnni"))) double RunAvx512Vnni(int64_t rounds) {
  const __m512i x = _mm512_set1_epi8(3);
  __m512i sums[kChains];
  for (int i = 0; i < kChains; ++i) sums[i] = _mm512_set1_epi32(i);
  for (int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 12
    for (int i = 0; i < kChains; ++i) sums[i] = _mm512_dpbusd_epi32(sums[i], x, x);
  }
  for (const __m512i& sum : sums) sink = static_cast<float>(_mm512_cvtsi512_si32(sum));
  return static_cast<double>(rounds) * kChains * 64 * 2;
}

struct alignas(64) FullTiles {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

// Eight tiles of zeros, until _tile_release.
__attribute__((target("amx-tile"))) void BeginFullTiles() {
  const FullTiles config;
  __asm__ volatile("" : : "r"(&config) : "memory");  // see TileShape::Set
  _tile_loadconfig(&config);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_zero(4);
  _tile_zero(5);
  _tile_zero(6);
  _tile_zero(7);
}

__attribute__((target("amx-tile,amx-int8"))) double RunAmxBytes(int64_t rounds) {
  BeginFullTiles();
  for (int64_t round = 0; round < rounds; ++round) {
    _tile_dpbusd(0, 4, 6);
    _tile_dpbusd(1, 4, 7);
    _tile_dpbusd(2, 5, 6);
    _tile_dpbusd(3, 5, 7);
  }
  _tile_release();
  return static_cast<double>(rounds) * 4 * 16 * 16 * 64 * 2;
}

__attribute__((target("amx-tile,amx-bf16"))) double RunAmx(int64_t rounds) {
  BeginFullTiles();
  for (int64_t round = 0; round < rounds; ++round) {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_release();
  return static_cast<double>(rounds) * 4 * 16 * 16 * 32 * 2;
}

#endif

}  // namespace

double RunDotProducts(const Kernels& kernels, int64_t rounds) {
#if defined(__x86_64__)
  if (kernels.compute == Compute::kInt8 || kernels.compute == Compute::kInt8F32) {
    if (kernels.isa == "amx") return RunAmxBytes(rounds);
    if (kernels.isa == "avx512-bf16") return RunAvx512Vnni(rounds);
    if (kernels.isa == "avx512") return RunAvx512Bytes(rounds);
  }
  if (kernels.isa == "amx") return RunAmx(rounds) / (kernels.compute == Compute::kBF16x3 ? 3 : 1);
  if (kernels.isa == "avx512-bf16") return RunAvx512Bf16(rounds);
  if (kernels.isa == "avx512") return RunAvx512(rounds);
  if (kernels.isa == "avx2") return RunAvx2(rounds);
#endif
  return RunPlain(rounds);
}

}  // namespace conclave
