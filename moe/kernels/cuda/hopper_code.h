// Whether a GPU runs this build's code for Hopper, or the PTX that is compiled for any GPU when it is loaded.
#ifndef CONCLAVE_MOE_KERNELS_CUDA_HOPPER_CODE_H_
#define CONCLAVE_MOE_KERNELS_CUDA_HOPPER_CODE_H_

namespace conclave::cuda {

// Of the current device: compute capability 9.0, and the driver was not told otherwise (CUDA_FORCE_PTX_JIT=1, by which
// the plain kernels can be tried on a Hopper GPU). Any thread may ask.
bool RunsHopperCode();

}  // namespace conclave::cuda

#endif  // CONCLAVE_MOE_KERNELS_CUDA_HOPPER_CODE_H_
