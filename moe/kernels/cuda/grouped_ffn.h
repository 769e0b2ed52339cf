// Grouped expert feed-forward, FP8 and its bfloat16 twin: the host's view, free of CUDA headers.
//
// Rows are sorted by expert; how many each expert has, stays on the device. One row and a thousand share one dot
// instruction and one order of accumulation along K. FP8: per block of 128 the tensor core sums in float32, then
// acc += partial * (weight_scale * activation_scale), blocks ascending (DeepSeek-V3, section 3.3.2). bfloat16: the
// tensor core sums all of K in float32, ascending.
//
// On Hopper the tensor cores compute; on any other device plain loops do, with a warning, for they are slow.
#ifndef CONCLAVE_MOE_KERNELS_CUDA_GROUPED_FFN_H_
#define CONCLAVE_MOE_KERNELS_CUDA_GROUPED_FFN_H_

#include <cstdint>

#include "absl/status/status.h"

namespace conclave::cuda {

// The scale blocks of DeepSeek's format, along K and along N.
inline constexpr int kScaleBlock = 128;
// An expert's rows begin at a multiple of this (the copy engine reads their scales 16 bytes at a time); the rows
// between segments are read and ignored.
inline constexpr int kRowAlignment = 4;

// Rows on the device, sorted by expert, as e4m3 with one float32 scale per row and block of 128 along K.
struct Fp8Rows {
  void* data = nullptr;        // [rows_capacity, cols] e4m3, 16-byte aligned
  float* scales = nullptr;     // [cols / 128, rows_capacity]: the scales of one block are contiguous
  int rows_capacity = 0;       // a multiple of 4
  int cols = 0;                // a multiple of 128
};

// One matrix per expert, as e4m3 with one float32 scale per block of 128 x 128.
struct Fp8Experts {
  const void* data = nullptr;     // [experts, rows, cols] e4m3, 16-byte aligned
  const float* scales = nullptr;  // [experts, rows / 128, cols / 128]
  int experts = 0;
  int rows = 0;                   // output features, a multiple of 256
  int cols = 0;                   // K, a multiple of 128
};

// What one launch computes. All pointers are device pointers.
struct GroupedGemm {
  Fp8Rows x;
  Fp8Experts w;
  const int32_t* row_begins = nullptr;   // [experts]: expert e has the rows from row_begins[e], a multiple of 4 …
  const int32_t* row_counts = nullptr;   // [experts]: … to row_begins[e] + row_counts[e]; 0: none
  int rows_per_expert = 0;               // what to expect, chooses the tile only; any actual counts are right
};

// out[r, n] = Σ_k x[r, k] · W_e[n, k] in bfloat16, [rows_capacity, w.rows]; rows of no expert stay untouched.
// `stream` is a cudaStream_t. INVALID_ARGUMENT names the field; INTERNAL carries CUDA's error.
absl::Status LaunchGroupedGemm(const GroupedGemm& problem, void* out, void* stream);

// w holds gate over up: [experts, 2 · intermediate, hidden]. out = quantise(silu(gate · x) ⊙ up · x) with a scale per
// row and block of 128 along the intermediate size; neither product is rounded before. out.cols is w.rows / 2.
absl::Status LaunchGroupedGateUp(const GroupedGemm& problem, const Fp8Rows& out, void* stream);

// The whole feed-forward: gate+up with SwiGLU and quantisation, then down.
struct GroupedFfn {
  Fp8Rows x;
  Fp8Experts gate_up;                   // [experts, 2 · intermediate, hidden]
  Fp8Experts down;                      // [experts, hidden, intermediate]
  Fp8Rows activation;                   // between the two; as many rows as x, cols is down.cols
  const int32_t* row_begins = nullptr;  // as in GroupedGemm
  const int32_t* row_counts = nullptr;
  int rows_per_expert = 0;
  int32_t* progress = nullptr;          // [1 + experts], zeros before every launch
};

// out = what LaunchGroupedGateUp and LaunchGroupedGemm compute one after the other, bit for bit, but in one launch.
absl::Status LaunchGroupedFfn(const GroupedFfn& problem, void* out, void* stream);

// bfloat16 rows and experts, as their FP8 counterparts but without scales.
struct Bf16Rows {
  const void* data = nullptr;  // [rows_capacity, cols] bf16, 16-byte aligned
  int rows_capacity = 0;
  int cols = 0;                // a multiple of 64
};
struct Bf16Experts {
  const void* data = nullptr;  // [experts, rows, cols] bf16, 16-byte aligned
  int experts = 0;
  int rows = 0;                // output features, a multiple of 256
  int cols = 0;                // K, a multiple of 64
};
struct Bf16GroupedGemm {
  Bf16Rows x;
  Bf16Experts w;
  const int32_t* row_begins = nullptr;  // as in GroupedGemm
  const int32_t* row_counts = nullptr;
  int rows_per_expert = 0;
  // The kernel right before this launch is a grouped one with the same row_begins and row_counts: then weights are
  // asked for while it still runs.
  bool follows_grouped = false;
};

// As LaunchGroupedGemm.
absl::Status LaunchBf16GroupedGemm(const Bf16GroupedGemm& problem, void* out, void* stream);
// w holds gate over up; out = silu(gate · x) ⊙ up · x in bfloat16, [rows_capacity, w.rows / 2]; neither product is
// rounded before.
absl::Status LaunchBf16GroupedGateUp(const Bf16GroupedGemm& problem, void* out, void* stream);

// The plain loops on the device, one thread an output in the same order of blocks: the oracle on the GPU's side.
// `out` is float32 [rows_capacity, w.rows].
absl::Status LaunchReferenceGemm(const GroupedGemm& problem, float* out, void* stream);
absl::Status LaunchBf16ReferenceGemm(const Bf16GroupedGemm& problem, float* out, void* stream);

}  // namespace conclave::cuda

#endif  // CONCLAVE_MOE_KERNELS_CUDA_GROUPED_FFN_H_
