#include "moe/model/device/pool_exchange.h"

#include "absl/types/span.h"
#include "moe/base/status_macros.h"
#include "moe/tensor/mat_view.h"

namespace conclave {

absl::StatusOr<ExpertTicket> PoolExchange::Send(LayerId layer, int64_t pair_offset, ExpertPool& experts,
                                                ForwardObserver* observer) const {
  const int64_t pairs = rows * spec.gate.top_k;
  const bool here = experts.row_device() == Device::kCuda;
  int32_t* const chosen = buffers.host_experts.as<int32_t>() + pair_offset;
  float* const weights = buffers.host_expert_weights.as<float>() + pair_offset;
  device.CopyOut(chosen, buffers.experts.as<int32_t>() + pair_offset, pairs * int64_t{sizeof(int32_t)});
  device.CopyOut(weights, buffers.expert_weights.as<float>() + pair_offset, pairs * int64_t{sizeof(float)});
  if (here) {
    device.CopyOut(buffers.host_fault_layer.as<void>(), buffers.fault_layer.as<void>(),
                   rows * int64_t{sizeof(int32_t)});
  } else {
    device.CopyOut(buffers.host_normed.as<void>(), buffers.normed.as<void>(),
                   rows * spec.hidden * int64_t{sizeof(float)});
  }
  RETURN_IF_ERROR(device.Synchronize());
  const Routing routing{spec.gate.top_k, absl::MakeConstSpan(chosen, pairs), absl::MakeConstSpan(weights, pairs),
                        absl::MakeConstSpan(buffers.host_fault_layer.as<int32_t>(), here ? rows : 0)};
  if (observer != nullptr) observer->OnRouting(layer, routing);
  const MatView on_host{buffers.host_normed.as<void>(), DType::kF32, Device::kCpu, rows, spec.hidden, spec.hidden};
  const MatView on_device{row_input, row_dtype, Device::kCuda, rows, spec.hidden, spec.hidden};
  return experts.Start(layer, here ? on_device : on_host, routing);
}

absl::Status PoolExchange::Take(ExpertTicket ticket, ExpertPool& experts) const {
  const int64_t pairs = rows * spec.gate.top_k;
  const MatView on_device{buffers.expert_rows.as<void>(), row_dtype, Device::kCuda, pairs, spec.hidden, spec.hidden};
  if (experts.row_device() == Device::kCuda) return experts.Finish(ticket, on_device);
  const MatView on_host{buffers.host_expert_rows.as<void>(), row_dtype, Device::kCpu, pairs, spec.hidden, spec.hidden};
  RETURN_IF_ERROR(experts.Finish(ticket, on_host));
  device.CopyIn(on_device.data, on_host.data, pairs * spec.hidden * SizeOf(row_dtype));
  return absl::OkStatus();
}

}  // namespace conclave
