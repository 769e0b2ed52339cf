// DeviceStream and DeviceEvent over CUDA's run-time library.
#ifndef CONCLAVE_MOE_KERNELS_CUDA_CUDA_STREAM_H_
#define CONCLAVE_MOE_KERNELS_CUDA_CUDA_STREAM_H_

#include <memory>

#include "absl/status/statusor.h"
#include "moe/kernels/accelerator/device_event.h"
#include "moe/kernels/accelerator/device_stream.h"

namespace conclave::cuda {

// INTERNAL: the device gives no stream.
absl::StatusOr<std::unique_ptr<DeviceStream>> NewCudaStream(int ordinal);
absl::StatusOr<std::unique_ptr<DeviceEvent>> NewCudaEvent(int ordinal);

}  // namespace conclave::cuda

#endif  // CONCLAVE_MOE_KERNELS_CUDA_CUDA_STREAM_H_
