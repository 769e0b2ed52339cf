// A layer's rows on their way from a step on a device to a pool of experts elsewhere, and back.
#ifndef CONCLAVE_MOE_MODEL_DEVICE_POOL_EXCHANGE_H_
#define CONCLAVE_MOE_MODEL_DEVICE_POOL_EXCHANGE_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "moe/base/ids.h"
#include "moe/checkpoint/model_spec.h"
#include "moe/kernels/accelerator/accelerator.h"
#include "moe/model/device/step_buffers.h"
#include "moe/model/expert_pool.h"
#include "moe/model/transformer.h"
#include "moe/tensor/dtype.h"

namespace conclave {

// Of one step. Non-owning; used by the accelerator's thread.
struct PoolExchange {
  Accelerator& device;
  const StepBuffers& buffers;
  const ModelSpec& spec;
  DType row_dtype;
  void* row_input;  // [rows, hidden] of row_dtype, what experts take
  int64_t rows;

  // Brings the layer's routing, which lies at `pair_offset` of the buffers', to the host, waits for it, and hands it to
  // the pool with the rows, which come to the host only where the pool does not take them on the device.
  absl::StatusOr<ExpertTicket> Send(LayerId layer, int64_t pair_offset, ExpertPool& experts,
                                    ForwardObserver* observer) const;
  // Queues what fills buffers.expert_rows, once the pool has everything.
  absl::Status Take(ExpertTicket ticket, ExpertPool& experts) const;
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_MODEL_DEVICE_POOL_EXCHANGE_H_
