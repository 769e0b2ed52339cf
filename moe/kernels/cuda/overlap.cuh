// Programmatic dependent launch (CUDA programming guide, "Programmatic Dependent Launch and Synchronization"): a
// kernel's blocks start while the kernel before still runs, do what depends on nothing, and wait for it then.
//
// The rule: every kernel that LaunchOverlapped starts calls AwaitKernelsBefore in every thread that reads or writes
// memory which another kernel writes or reads. So the end of any kernel means the end of all before it.
#pragma once

#include <cuda_runtime.h>

#include <utility>

#include "moe/kernels/cuda/hopper_code.h"

namespace conclave::cuda {

// Nothing of the kernels before is visible until this returns; it does so at once in a kernel launched plainly.
__device__ __forceinline__ void AwaitKernelsBefore() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
// From the last block's call on (or its end), the next kernel's blocks may start.
__device__ __forceinline__ void LetNextKernelStart() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
// What kernels do that have nothing to prepare.
__device__ __forceinline__ void FollowKernelsBefore() {
  LetNextKernelStart();
  AwaitKernelsBefore();
}

// As kernel<<<grid, threads, shared_bytes, stream>>>(arguments…), beside the end of the kernel before; behind it on a
// GPU that runs no Hopper code.
template <typename... Parameters, typename... Arguments>
void LaunchOverlapped(void (*kernel)(Parameters...), dim3 grid, unsigned threads, size_t shared_bytes,
                      cudaStream_t stream, Arguments&&... arguments) {
  cudaLaunchAttribute attribute;
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = RunsHopperCode() ? 1 : 0;
  cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...);
}

}  // namespace conclave::cuda
