// Device memory of a shard that routers' rows over NCCL and UCX need: part of the plan of --gpu-memory.
#ifndef CONCLAVE_EXPERT_SERVICE_ROW_MEMORY_H_
#define CONCLAVE_EXPERT_SERVICE_ROW_MEMORY_H_

#include "absl/status/status.h"
#include "moe/checkpoint/model_spec.h"
#include "moe/model/device/device_memory.h"
#include "moe/tensor/dtype.h"

namespace conclave {

// Notes room for a pair with each of `routers` routers, for the largest calls of rows of `row_dtype` that there are.
// RESOURCE_EXHAUSTED with the plan where it does not fit.
absl::Status ReserveNcclPairs(const ModelSpec& spec, DType row_dtype, int routers, DeviceMemory& memory);

// The same for one router whose rows come over UCX from device to device.
absl::Status ReserveUcxRows(const ModelSpec& spec, DType row_dtype, DeviceMemory& memory);

}  // namespace conclave

#endif  // CONCLAVE_EXPERT_SERVICE_ROW_MEMORY_H_
