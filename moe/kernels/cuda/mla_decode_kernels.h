// The kernels that LaunchMlaDecode chooses from. REQUIRES of each: the problem passed mla_decode.cu's checks.
#ifndef CONCLAVE_MOE_KERNELS_CUDA_MLA_DECODE_KERNELS_H_
#define CONCLAVE_MOE_KERNELS_CUDA_MLA_DECODE_KERNELS_H_

#include <cuda_runtime.h>

#include "absl/status/status.h"
#include "moe/kernels/cuda/mla_decode.h"

namespace conclave::cuda {

// Whether sm90_bf16_mla_decode.cu takes this problem on a Hopper device.
bool Sm90Bf16MlaTakes(const MlaDecode& problem);
absl::Status LaunchSm90Bf16Mla(const MlaDecode& problem, cudaStream_t stream);

// Every problem, on every device.
absl::Status LaunchPlainMla(const MlaDecode& problem, cudaStream_t stream);

}  // namespace conclave::cuda

#endif  // CONCLAVE_MOE_KERNELS_CUDA_MLA_DECODE_KERNELS_H_
