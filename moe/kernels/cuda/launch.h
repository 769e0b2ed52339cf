// What every launcher needs: CUDA's errors as Status, and the limits of the current device.
#ifndef CONCLAVE_MOE_KERNELS_CUDA_LAUNCH_H_
#define CONCLAVE_MOE_KERNELS_CUDA_LAUNCH_H_

#include <cuda_runtime.h>

#include <cstdio>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "moe/kernels/cuda/hopper_code.h"
#include "moe/kernels/cuda/overlap.cuh"

namespace conclave::cuda {

inline absl::Status CudaError(const char* what, cudaError_t error) {
  return absl::InternalError(std::string(what) + ": " + cudaGetErrorString(error));
}

// The error of a launch just made, if any.
inline absl::Status LaunchStatus(const char* what) {
  const cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? absl::OkStatus() : CudaError(what, error);
}

// What kernels are configured by.
struct DeviceLimits {
  int multiprocessors = 0;
  bool hopper = false;  // wgmma and the tensor copy engine are there
};

// Of the current device.
inline absl::StatusOr<DeviceLimits> Limits() {
  int device = 0;
  DeviceLimits limits;
  if (cudaError_t error = cudaGetDevice(&device); error != cudaSuccess) return CudaError("cudaGetDevice", error);
  cudaDeviceGetAttribute(&limits.multiprocessors, cudaDevAttrMultiProcessorCount, device);
  limits.hopper = RunsHopperCode();
  return limits;
}

// Says once per process and call site that this device runs plain loops.
inline void WarnSlow(const char* what) {
  static bool said = false;
  if (!said)
    std::fprintf(stderr, "warning: %s run plain loops here, slowly: the fast kernels need a Hopper GPU (sm_90)\n",
                 what);
  said = true;
}

}  // namespace conclave::cuda

#endif  // CONCLAVE_MOE_KERNELS_CUDA_LAUNCH_H_
