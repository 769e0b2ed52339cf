// What a device can do at most, measured: the figures that kernels are judged by.
#ifndef CONCLAVE_MOE_KERNELS_CUDA_CEILINGS_H_
#define CONCLAVE_MOE_KERNELS_CUDA_CEILINGS_H_

#include "absl/status/statusor.h"

namespace conclave::cuda {

// Bytes per second of a copy of 4 GiB (less where memory is short) within the current device, read and written ones
// counted. RESOURCE_EXHAUSTED: there is no room for it.
absl::StatusOr<double> CopyBytesPerSecond();

// Operations per second of cuBLAS's bfloat16 product of 8192³ on random data. NOT_FOUND: no cuBLAS is installed.
absl::StatusOr<double> Bf16FlopsPerSecond();
// The same of e4m3 numbers by cuBLASLt, with one scale for each matrix and a bfloat16 result.
absl::StatusOr<double> Fp8FlopsPerSecond();

}  // namespace conclave::cuda

#endif  // CONCLAVE_MOE_KERNELS_CUDA_CEILINGS_H_
