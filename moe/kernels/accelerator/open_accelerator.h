// Finds the accelerator that a --device flag names. Programs are linked without any vendor's library: what talks to
// the driver is a shared object of our own, opened here, so that one build runs with and without a GPU.
#ifndef CONCLAVE_MOE_KERNELS_ACCELERATOR_OPEN_ACCELERATOR_H_
#define CONCLAVE_MOE_KERNELS_ACCELERATOR_OPEN_ACCELERATOR_H_

#include <memory>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "moe/kernels/accelerator/accelerator.h"

namespace conclave {

// INVALID_ARGUMENT: `device` is neither "cpu" nor "cuda" nor "cuda:N".
absl::Status ValidateDeviceName(absl::string_view device);

// Null for "cpu". FAILED_PRECONDITION says in a sentence what is missing: the shared object (built without a CUDA
// toolkit), the driver, the GPU, or a GPU or driver that is new enough. Logs a warning where the GPU is no Hopper.
absl::StatusOr<std::unique_ptr<Accelerator>> OpenAccelerator(absl::string_view device);

// The shared object exports this under kAcceleratorSymbol; it refuses another `revision` than it was built with.
using OpenAcceleratorFunction = absl::StatusOr<std::unique_ptr<Accelerator>> (*)(int revision, int ordinal);
inline constexpr char kAcceleratorSymbol[] = "conclave_open_cuda_accelerator";
inline constexpr char kCudaLibrary[] = "libconclave_cuda.so";
// Grows with every change of accelerator.h, ops.h or expert_ops.h.
inline constexpr int kAcceleratorRevision = 8;

}  // namespace conclave

#endif  // CONCLAVE_MOE_KERNELS_ACCELERATOR_OPEN_ACCELERATOR_H_
