// Dense products on Hopper's tensor cores: the host's view, free of CUDA headers. One matrix, any number of rows.
//
// FP8 adds up as grouped_ffn.h has it, bfloat16 in the tensor core over all of K, ascending: bits do not depend on the
// number of rows, which only chooses the tile.
#ifndef CONCLAVE_MOE_KERNELS_CUDA_DENSE_LINEAR_H_
#define CONCLAVE_MOE_KERNELS_CUDA_DENSE_LINEAR_H_

#include <cstdint>

#include "absl/status/status.h"
#include "moe/kernels/cuda/grouped_ffn.h"

namespace conclave::cuda {

// out[r, n] = Σ_k x[r, k] · W[n, k]. All pointers are device pointers.
struct Fp8Linear {
  Fp8Rows x;
  const void* w = nullptr;          // [features, x.cols] e4m3, 16-byte aligned
  const float* w_scales = nullptr;  // [ceil(features / 128), x.cols / 128]
  int features = 0;                 // a multiple of 8
  int rows = 0;                     // at most x.rows_capacity
  void* out = nullptr;              // [rows, out_stride] float32, 16-byte aligned …
  bool bf16_out = false;            // … or bfloat16
  int64_t out_stride = 0;           // a multiple of 8
};

// `stream` is a cudaStream_t. INVALID_ARGUMENT names the field; INTERNAL carries CUDA's error.
absl::Status LaunchFp8Linear(const Fp8Linear& problem, void* stream);

// out = quantise(silu(gate) ⊙ up) of rows [gate | up] of float32, 2 · out.cols each: the bits of LaunchGroupedGateUp's
// epilogue. Together with LaunchFp8Linear it serves few rows of a narrow matrix.
absl::Status LaunchSwiGluQuantise(const float* gate_up, int rows, const Fp8Rows& out, void* stream);

// Fp8Linear's twin in bfloat16.
struct Bf16Linear {
  const void* x = nullptr;         // [rows, cols] bf16, 16-byte aligned
  const void* w = nullptr;         // [features, cols] bf16, 16-byte aligned
  int features = 0;                // a multiple of 8
  int cols = 0;                    // a multiple of 64
  int rows = 0;
  const int32_t* row_range = nullptr;  // on the device: 0, then `rows`
  float* out = nullptr;            // [rows, features], 16-byte aligned
};
absl::Status LaunchBf16Linear(const Bf16Linear& problem, void* stream);

// Many rows over bfloat16 weights, in tc_linear.cuh's order of sums: a row is one of bfloat16, or the sum of two.
struct SplitLinear {
  // [rows · terms, x_stride] bf16, 16-byte aligned: of two terms, a row's high part and then its low part.
  const void* x = nullptr;
  int64_t x_stride = 0;      // a multiple of 8
  int terms = 2;             // or 1
  const void* w = nullptr;   // [features, cols] bf16, 16-byte aligned
  int features = 0;
  int cols = 0;              // a multiple of 128
  int rows = 0;
  void* out = nullptr;       // [rows, out_stride] float32 …
  bool bf16_out = false;     // … or bfloat16
  int64_t out_stride = 0;
  // w is [2 · features, cols], gate over up, and what comes out is the x of two terms of the product behind them: of
  // silu(gate) ⊙ up, [2 · rows, out_stride] bf16.
  bool swiglu = false;
};
absl::Status LaunchSplitLinear(const SplitLinear& problem, void* stream);
// Into how many tiles of 128 · halves features, halves being 1 or 2, the launch cuts a problem: with less than some
// dozens of them most of the GPU idles.
int SplitTiles(const SplitLinear& problem, int halves);

}  // namespace conclave::cuda

#endif  // CONCLAVE_MOE_KERNELS_CUDA_DENSE_LINEAR_H_
