// The accelerator's half of a MoE layer: rows to and from experts. See ops.h for the rules.
#ifndef CONCLAVE_MOE_KERNELS_ACCELERATOR_EXPERT_OPS_H_
#define CONCLAVE_MOE_KERNELS_ACCELERATOR_EXPERT_OPS_H_

#include <cstdint>

#include "moe/kernels/accelerator/ops.h"
#include "moe/kernels/kernels.h"
#include "moe/tensor/dtype.h"

namespace conclave {

// acc[r] = (from_zero ? 0 : acc[r]) + Σ_k weights[r, k] · expert_rows[r, k], k ascending, one multiply-add per element.
struct CombineArgs {
  const void* expert_rows = nullptr;  // [rows * top_k, cols]
  DType row_dtype = DType::kF32;
  const float* weights = nullptr;     // [rows, top_k]
  float* acc = nullptr;               // [rows, cols]
  int64_t rows = 0, cols = 0;
  int top_k = 0;
  bool from_zero = false;
};

// to[r] = the `row_bytes` bytes at from[r]: rows for one message, or those of several replies in the routing's order.
struct GatherRowsArgs {
  const void* const* from = nullptr;  // [rows] addresses; pinned host memory, or the accelerator's own
  void* to = nullptr;                 // [rows, row_bytes], overlaps no row
  int64_t rows = 0;
  int64_t row_bytes = 0;              // even
};

// How experts' matrices lie on the device: one layer's, `slots` of them.
struct ExpertSlots {
  DeviceWeight gate_up;  // 2 * slots matrices [intermediate, hidden]: gate, then up, of each slot
  DeviceWeight down;     // slots matrices [hidden, intermediate]
  int slots = 0;
  int hidden = 0;
  int intermediate = 0;
};

// out[p] = round(FFN_{slot_of[pair_experts[p]]}(rows[pair_rows[p]])) for every pair; rounds to row_dtype.
struct ExpertFfnArgs {
  Compute compute = Compute::kF32;
  DType row_dtype = DType::kF32;
  const void* rows = nullptr;             // [rows, hidden]
  const int32_t* pair_experts = nullptr;  // [pairs]
  const int32_t* pair_rows = nullptr;     // [pairs]; null: p / top_k
  const int32_t* slot_of = nullptr;       // [experts]: the slot of each expert; all that pairs name must have one
  int experts = 0;
  int top_k = 1;
  int64_t pairs = 0;
  ExpertSlots slots;
  void* out = nullptr;                    // [pairs, hidden]
  // Then combines the rows as `combine` says, but for its expert_rows and row_dtype, which are these; `out` may keep
  // anything. REQUIRES: pair_rows is null.
  bool combined = false;
  CombineArgs combine;
  void* workspace = nullptr;              // ExpertWorkspaceBytes(…) bytes
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_KERNELS_ACCELERATOR_EXPERT_OPS_H_
