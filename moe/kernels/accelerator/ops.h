// What an accelerator computes: one struct of arguments per operation. All pointers are to its own memory; all
// activations are float32 unless a field says otherwise. Nothing here knows which accelerator it is.
//
// The rule of moe/kernels/kernels.h holds: the result of a row depends on that row and the weights alone. One order of
// accumulation per output, whatever the number of rows.
#ifndef CONCLAVE_MOE_KERNELS_ACCELERATOR_OPS_H_
#define CONCLAVE_MOE_KERNELS_ACCELERATOR_OPS_H_

#include <cstdint>

#include "moe/kernels/kernels.h"
#include "moe/kernels/token_draw.h"
#include "moe/tensor/dtype.h"

namespace conclave {

// `matrices` matrices [rows, cols] one after the other, as the checkpoint stores them (weight_view.h); block scales
// are float32 whatever the file has, [matrices, ceil(rows / block_rows), ceil(cols / block_cols)].
struct DeviceWeight {
  const void* data = nullptr;
  const float* scales = nullptr;  // null: none
  DType dtype = DType::kF32;
  int32_t block_rows = 0;
  int32_t block_cols = 0;
  int64_t matrices = 1;
  int64_t rows = 0;
  int64_t cols = 0;
};

// out[r] = row tokens[r] of the table, widened; also clears fault_layer[r].
struct EmbedArgs {
  const int32_t* tokens = nullptr;  // [rows]
  int64_t rows = 0;
  DeviceWeight table;               // [vocab, hidden]
  float* out = nullptr;             // [rows, hidden]
  int32_t* fault_layer = nullptr;   // [rows], see AddArgs
};

// out[r, i] = x[row_index[r], i] · weight[i] / sqrt(mean(x²) + eps).
struct NormArgs {
  const float* x = nullptr;            // rows are x_stride floats apart
  const int32_t* row_index = nullptr;  // [rows]; null: r itself
  const float* weight = nullptr;       // [cols]
  void* out = nullptr;                 // rows are out_stride elements apart; may be x where row_index is null
  DType out_dtype = DType::kF32;       // or BF16
  int64_t rows = 0, cols = 0, x_stride = 0, out_stride = 0;
  float eps = 0;
};

// How exact a product must be at least; an accelerator may do better. kFloat32: float32 throughout. kSplit: inputs keep
// sixteen bits of mantissa, sums float32. kBf16: inputs rounded to bfloat16, sums float32. kFp8: where the weights are
// e4m3 in blocks of 128 x 128, inputs rounded to e4m3 with a scale for each row and 128 columns, sums float32
// (DeepSeek-V3, section 3.3); elsewhere as kBf16.
enum class LinearPrecision : uint8_t { kFloat32, kSplit, kBf16, kFp8 };

// For each row r and batch b: out[r, b, n] = bias[n] + Σ_k x[r, b, k] · W[row_begin + b · row_step + n, k], or with
// `transposed` out[r, b, k] = Σ_n x[r, b, n] · W[row_begin + b · row_step + n, k]; W is matrix b where w has several.
struct LinearArgs {
  const void* x = nullptr;      // [rows, x_stride] of x_dtype, batch b starts at b * x_batch
  DeviceWeight w;               // one matrix, or `batch` of them
  const float* bias = nullptr;  // [features] or null
  void* out = nullptr;          // [rows, out_stride] of out_dtype, batch b starts at b * out_batch
  DType x_dtype = DType::kF32, out_dtype = DType::kF32;  // F32 or BF16
  int64_t rows = 0, batch = 1;
  int64_t features = 0;  // rows of W that a batch uses
  int64_t row_begin = 0, row_step = 0;
  int64_t x_stride = 0, x_batch = 0, out_stride = 0, out_batch = 0;
  bool transposed = false;
  LinearPrecision precision = LinearPrecision::kFloat32;
  void* workspace = nullptr;  // DenseWorkspaceBytes(…) bytes; null: kFp8 is taken as kBf16
};

// out[r] = down · (silu(gate · x[r]) ⊙ (up · x[r])), rows contiguous.
struct FfnArgs {
  const void* x = nullptr;   // [rows, hidden] of x_dtype
  DType x_dtype = DType::kF32;  // or BF16
  DeviceWeight gate_up;      // 2 matrices [intermediate, hidden]
  DeviceWeight down;         // [hidden, intermediate]
  float* out = nullptr;      // [rows, hidden]
  int64_t rows = 0;
  LinearPrecision precision = LinearPrecision::kFloat32;
  void* workspace = nullptr;  // DenseWorkspaceBytes(…) bytes
};

// The largest Linear and Ffn that a workspace must do for.
struct DenseLimits {
  LinearPrecision precision = LinearPrecision::kFloat32;
  // Of the feed-forward: BF16, which needs most, where any layer's is; F8_E4M3 where all layers' are in whole scale
  // blocks of 128 x 128; else F32.
  DType weight_dtype = DType::kF32;
  int64_t rows = 0;
  int64_t cols = 0;          // of the widest weight that a Linear with a workspace takes
  int64_t hidden = 0;
  int64_t intermediate = 0;  // 0: no Ffn
};

// acc += y. Where a sum is not a finite number, fault_layer[r] becomes `layer` unless a lower one stands there.
struct AddArgs {
  const float* y = nullptr;        // [rows, cols]
  float* acc = nullptr;            // [rows, cols]
  int32_t* fault_layer = nullptr;  // [rows]
  int64_t rows = 0, cols = 0;
  int32_t layer = 0;
};
// The sum, and the RMS norm of each of its rows: out[r, i] = acc[r, i] · weight[i] / sqrt(mean(acc[r]²) + eps). A norm
// that is not finite, once rounded where it is, is a fault as a sum is.
struct AddNormArgs {
  AddArgs add;
  const float* weight = nullptr;  // [cols]
  float* out = nullptr;           // [rows, cols], or null
  void* rounded = nullptr;        // the same in bfloat16, or null
  float eps = 0;
};
// What fault_layer holds for a row without a fault.
inline constexpr int32_t kNoFault = 0x7fffffff;

// ids[r] = the column that draws[r] takes of row r once its changes are applied (in place, before all else), in the
// arithmetic of token_draw.h, or the given one; -1 where any value is not a finite number. Rows whose top_logprobs is
// not negative also leave DrawnLogits and as many LikelyTokens, those of finite rows alone meaning anything; the bias
// of each of their changes then holds the logit that it found. Changes leave at least one column that may be drawn.
struct DrawArgs {
  float* x = nullptr;                 // [rows, cols]
  const TokenDraw* draws = nullptr;   // [rows], top_logprobs at most cols, given below cols
  int32_t* tables = nullptr;          // where TokenDraw::first_change counts from
  int32_t* ids = nullptr;             // [rows]
  uint64_t* words = nullptr;          // where TokenDraw::first_word counts from; null: no row asks
  int64_t rows = 0, cols = 0;
};

// moe/model/gate.h's SelectExperts for every row.
struct SelectArgs {
  const float* logits = nullptr;  // [rows, experts]
  const float* bias = nullptr;    // [experts] or null
  int32_t* experts_out = nullptr; // [rows, top_k], ascending within a row
  float* weights_out = nullptr;   // [rows, top_k]
  int64_t rows = 0;
  int experts = 0, top_k = 0, groups = 1, groups_kept = 1;
  bool softmax = false;           // else sigmoid
  bool by_groups = false;         // drop all but groups_kept groups …
  bool group_sum_of_two = false;  // … by the sum of their two best, else by their best
  bool normalise = false;
  float scaling = 1;
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_KERNELS_ACCELERATOR_OPS_H_
