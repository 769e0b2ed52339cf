// The decoder on an accelerator: transformer.h's contract, with weights, KV cache and activations in device memory.
#ifndef CONCLAVE_MOE_MODEL_DEVICE_DEVICE_TRANSFORMER_H_
#define CONCLAVE_MOE_MODEL_DEVICE_DEVICE_TRANSFORMER_H_

#include <memory>

#include "absl/status/statusor.h"
#include "moe/checkpoint/checkpoint.h"
#include "moe/kernels/kernels.h"
#include "moe/model/device/device_expert_pool.h"
#include "moe/model/device/device_memory.h"
#include "moe/model/transformer.h"

namespace conclave {

// `kernels` are the target's (compute_target.h). `local` is null where experts run elsewhere; where it is not, a
// Forward over that pool keeps everything on the device. Any other pool gets its rows where its row_device() is, which
// `options` name: on the device, or through pinned host memory. Small steps are replayed from recorded graphs, with
// another pool one between any two of its calls. `memory` and `local` must outlive the transformer.
// Errors as Transformer::Create; RESOURCE_EXHAUSTED with the plan where it does not fit.
absl::StatusOr<std::unique_ptr<Transformer>> CreateDeviceTransformer(const Checkpoint& checkpoint,
                                                                     const Kernels& kernels, DeviceMemory& memory,
                                                                     DeviceExpertPool* local,
                                                                     const TransformerOptions& options);

}  // namespace conclave

#endif  // CONCLAVE_MOE_MODEL_DEVICE_DEVICE_TRANSFORMER_H_
