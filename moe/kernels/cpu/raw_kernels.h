// The tables that one instruction set provides: plain pointers and sizes, so that the sources which are compiled
// with wider instructions instantiate no inline function that the rest of the program shares (the linker keeps one
// copy of such a function, and it could be the one that this CPU cannot run). cpu_kernels.cc checks and unpacks views.
#ifndef CONCLAVE_MOE_KERNELS_CPU_RAW_KERNELS_H_
#define CONCLAVE_MOE_KERNELS_CPU_RAW_KERNELS_H_

#include <cstdint>

namespace conclave::cpu {

// How matrix elements are stored. Weights may be at any address, aligned to nothing. kInt8 and kInt4 are WeightCode's.
enum class Element : uint8_t { kF32, kBf16, kF16, kF8E4M3, kInt8, kInt4 };
enum class ScaleElement : uint8_t { kF32, kBf16, kE8M0 };

// Block scales of a kF8E4M3, kInt8 or kInt4 matrix: element (n, k) is multiplied by data[n / block_rows,
// k / block_cols]. Without scales: data is null and the blocks are the whole matrix.
struct RawScales {
  const void* data;  // [ceil(N / block_rows), ceil(K / block_cols)]
  ScaleElement element;
  int64_t stride;    // elements between rows of scales
  int64_t block_rows;
  int64_t block_cols;
};

// A matrix [N, K] as it is stored.
struct RawWeight {
  const uint8_t* data;
  Element element;
  int64_t row_bytes;  // between the starts of two rows
  RawScales scales;
  int64_t rows;       // N
};

// y[m, n] = sum over k of x[m, k] * w[n, k], for n in [n_begin, n_end).
struct RawLinear {
  const void* x;  // [rows, depth] F32, or BF16
  bool x_is_bf16;
  int64_t x_stride;
  int64_t rows;
  int64_t depth;
  RawWeight w;
  int64_t n_begin;
  int64_t n_end;
  float* y;  // column n of row m is y[m * y_stride + n]
  int64_t y_stride;
};

// y[m, k] = sum over n of x[m, n] * w[n, k], for k in [k_begin, k_end); n ascending.
struct RawTransposed {
  const float* x;  // [rows, depth]
  int64_t x_stride;
  int64_t rows;
  int64_t depth;  // N: rows of w
  RawWeight w;
  int64_t k_begin;
  int64_t k_end;
  float* y;
  int64_t y_stride;
};

enum class CacheElement : uint8_t { kF32, kBf16, kF8 };

// As MlaAttentionArgs, in the same units.
struct RawMla {
  const float* query;
  int64_t query_stride;
  const void* const* pages;
  CacheElement element;
  int64_t row_bytes;           // of the cache
  int64_t scales_at, rope_at;  // of a row of kF8: see LatentRowLayout
  int page_tokens;
  int64_t tokens;
  int heads;
  int latent;
  int rope;
  float scale;
  float* out;
  int64_t out_stride;
  float* scratch;
};

// Rows of rms_norm, silu_mul and convert are handed over one at a time: the adapter walks them.
struct RawKernels {
  void (*linear)(const RawLinear& args);
  void (*linear_transposed)(const RawTransposed& args);
  void (*rms_norm)(const float* x, const float* weight, float eps, int64_t n, float* out);
  void (*silu_mul)(const float* gate, const float* up, int64_t n, float* out);
  void (*to_bf16)(const float* x, int64_t n, uint16_t* out);
  void (*from_bf16)(const uint16_t* x, int64_t n, float* out);
  void (*axpy_f32)(float weight, const float* row, int64_t n, float* acc);
  void (*axpy_bf16)(float weight, const uint16_t* row, int64_t n, float* acc);
  void (*mla_attention)(const RawMla& args);
};

// Null function pointers where the compiler could not build the instruction set (another architecture).
extern const RawKernels kScalarF32, kScalarBf16;
extern const RawKernels kAvx2F32, kAvx2Bf16;
extern const RawKernels kAvx512F32, kAvx512Bf16;
extern const RawKernels kAvx512DotBf16;  // kBF16 by the dot instruction; float32 is kAvx512F32

// Floats of scratch that mla_attention needs; enough for every table.
constexpr int64_t MlaScratch(int64_t heads, int64_t latent, int64_t rope) {
  constexpr int64_t kChunk = 64;
  return (heads + kChunk) * (latent + rope) + heads * kChunk + 3 * heads + 64;
}

}  // namespace conclave::cpu

#endif  // CONCLAVE_MOE_KERNELS_CPU_RAW_KERNELS_H_
