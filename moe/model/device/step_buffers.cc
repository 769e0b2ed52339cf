#include "moe/model/device/step_buffers.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "moe/base/status_macros.h"

namespace conclave {

absl::Status StepBuffers::Allocate(const ModelSpec& spec, const TransformerOptions& options, DType row_dtype,
                                   bool rows_on_host, DeviceMemory& memory) {
  const int64_t rows = options.rows_max;
  const int64_t pairs = rows * std::max(spec.gate.top_k, 1);
  const int64_t routed = pairs * std::max(spec.moe_layers(), 1);
  const int64_t hidden = spec.hidden, row_size = SizeOf(row_dtype);
  constexpr int64_t kF32 = sizeof(float), kI32 = sizeof(int32_t);
  constexpr int64_t kLogprobBytes = (kDrawnLogitsWords + kTopLogprobsMax) * sizeof(uint64_t);
  const std::vector<std::pair<DeviceBuffer*, int64_t>> on_device = {
      {&residual, rows * hidden * kF32},
      {&normed, rows * hidden * kF32},
      {&branch, rows * hidden * kF32},
      {&gate_logits, rows * std::max(spec.gate.experts, 1) * kF32},
      {&rounded, row_dtype == DType::kBF16 ? rows * hidden * row_size : 0},
      {&expert_rows, pairs * hidden * row_size},
      {&experts, routed * kI32},
      {&expert_weights, routed * kF32},
      {&fault_layer, rows * kI32},
      {&logits, int64_t{options.logit_rows_max} * spec.vocab * kF32},
      {&drawn, options.logit_rows_max * kI32},
      {&logprobs, options.logit_rows_max * kLogprobBytes},
  };
  int64_t total = 0;
  for (const auto& [buffer, bytes] : on_device) total += DeviceMemory::Rounded(bytes);
  RETURN_IF_ERROR(memory.Reserve("activations", total));
  for (const auto& [buffer, bytes] : on_device) {
    ASSIGN_OR_RETURN(*buffer, memory.Allocate(bytes));
  }
  std::vector<std::pair<DeviceBuffer*, int64_t>> on_host = {
      {&host_experts, routed * kI32},
      {&host_expert_weights, routed * kF32},
      {&host_fault_layer, rows * kI32},
      {&host_drawn, options.logit_rows_max * kI32},
      {&host_logprobs, options.logit_rows_max * kLogprobBytes},
      {&host_logits, int64_t{options.logit_rows_max} * spec.vocab * kF32},
  };
  if (rows_on_host) {
    on_host.push_back({&host_normed, rows * hidden * kF32});
    on_host.push_back({&host_expert_rows, pairs * hidden * row_size});
  }
  for (const auto& [buffer, bytes] : on_host) {
    ASSIGN_OR_RETURN(*buffer, memory.AllocateHost(bytes));
  }
  return absl::OkStatus();
}

void StepBuffers::FetchLogprobs(int64_t words, Accelerator& device) const {
  if (words == 0) return;
  device.CopyOut(host_logprobs.as<void>(), logprobs.as<void>(), words * int64_t{sizeof(uint64_t)});
}

DrawnLogprobs StepBuffers::Logprobs(const TokenDraw& draw) const {
  return DrawnLogprobs::At(host_logprobs.as<uint64_t>() + draw.first_word, draw.top_logprobs);
}

}  // namespace conclave
