// The memory of one step of a model on a device.
#ifndef CONCLAVE_MOE_MODEL_DEVICE_STEP_BUFFERS_H_
#define CONCLAVE_MOE_MODEL_DEVICE_STEP_BUFFERS_H_

#include "absl/status/status.h"
#include "moe/checkpoint/model_spec.h"
#include "moe/kernels/accelerator/accelerator.h"
#include "moe/kernels/token_draw.h"
#include "moe/model/device/device_memory.h"
#include "moe/model/transformer.h"
#include "moe/tensor/dtype.h"

namespace conclave {

// Device scratch of one step and its pinned twins; sized once.
struct StepBuffers {
  // All but the workspace, for the largest step; experts elsewhere that take rows on the host need twins of them.
  // RESOURCE_EXHAUSTED with the plan where it does not fit.
  absl::Status Allocate(const ModelSpec& spec, const TransformerOptions& options, DType row_dtype,
                        bool rows_on_host, DeviceMemory& memory);
  // Queues the copy of what the step's draws told, so many words, to the host.
  void FetchLogprobs(int64_t words, Accelerator& device) const;
  // What `draw`, of that step, told.
  DrawnLogprobs Logprobs(const TokenDraw& draw) const;

  DeviceBuffer residual;        // [rows_max, hidden] F32
  DeviceBuffer normed;          // [rows_max, hidden] F32
  DeviceBuffer branch;          // [rows_max, hidden] F32: what attention or the FFN adds to the residual
  DeviceBuffer workspace;       // of products
  DeviceBuffer gate_logits;     // [rows_max, experts] F32
  DeviceBuffer rounded;         // [rows_max, hidden] BF16: normed, where rows travel in it
  DeviceBuffer expert_rows;     // [rows_max * top_k, hidden] row dtype
  DeviceBuffer experts;         // [moe_layers, rows, top_k] int32, of the step's own rows
  DeviceBuffer expert_weights;  // [moe_layers, rows, top_k] F32
  DeviceBuffer fault_layer;     // [rows_max] int32
  DeviceBuffer logits;          // [logit_rows_max, vocab] F32
  DeviceBuffer drawn;           // [logit_rows_max] int32
  DeviceBuffer logprobs;        // [logit_rows_max, kDrawnLogitsWords + kTopLogprobsMax] words, of the rows that ask
  DeviceBuffer host_experts, host_expert_weights, host_fault_layer, host_drawn, host_logprobs;
  DeviceBuffer host_logits;     // [logit_rows_max, vocab] F32
  DeviceBuffer host_normed, host_expert_rows;  // only where rows_on_host
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_MODEL_DEVICE_STEP_BUFFERS_H_
