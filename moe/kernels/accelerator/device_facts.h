// Whether a GPU can be used, from what its driver says of it; apart from the driver, so that any answer can be tested.
#ifndef CONCLAVE_MOE_KERNELS_ACCELERATOR_DEVICE_FACTS_H_
#define CONCLAVE_MOE_KERNELS_ACCELERATOR_DEVICE_FACTS_H_

#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace conclave {

// The driver that CUDA 13 needs, counted as DeviceFacts::driver is.
inline constexpr int kCudaDriverMin = 13000;
// The compute capability that the plain kernels need (bfloat16 products on tensor cores).
inline constexpr int kCapabilityMin = 8;

// What was found out before anything is done with the device. Later fields are looked for where earlier ones allow it.
struct DeviceFacts {
  int driver = 0;   // the CUDA version that the driver supports, 1000 * major + 10 * minor; 0: there is no driver
  int devices = 0;  // of this machine
  std::string devices_error;  // what the driver says where there are none
  std::string answer_error;   // what it says of a device that does not answer; empty: it answers
  std::string name;           // "NVIDIA H200"
  int major = 0, minor = 0;   // compute capability
};

// FAILED_PRECONDITION, as every refusal of a device reads.
inline absl::Status CannotUseDevice(absl::string_view why) {
  return absl::FailedPreconditionError(absl::StrCat("--device cuda: ", why));
}

// FAILED_PRECONDITION says in a sentence why GPU `ordinal` cannot be used, and what to do.
inline absl::Status CheckDevice(const DeviceFacts& facts, int ordinal) {
  if (facts.driver == 0) return CannotUseDevice("no NVIDIA driver is installed; use --device cpu");
  if (facts.driver < kCudaDriverMin) {
    return CannotUseDevice(absl::StrCat("the NVIDIA driver supports CUDA ", facts.driver / 1000, ".",
                                        facts.driver % 1000 / 10,
                                        ", this program needs 13.0: update the driver (580 or later)"));
  }
  if (facts.devices == 0) {
    return CannotUseDevice(absl::StrCat("no GPU is found (", facts.devices_error, "); use --device cpu"));
  }
  if (ordinal >= facts.devices) {
    return CannotUseDevice(absl::StrCat("there is no GPU ", ordinal, ": this machine has ", facts.devices));
  }
  if (!facts.answer_error.empty()) {
    return CannotUseDevice(absl::StrCat("GPU ", ordinal, " does not answer: ", facts.answer_error));
  }
  if (facts.major < kCapabilityMin) {
    return CannotUseDevice(absl::StrCat("GPU ", ordinal, ", ", facts.name, ", has compute capability ", facts.major,
                                        ".", facts.minor, "; this program needs ", kCapabilityMin,
                                        ".0 or later (9.0, Hopper, for its fast kernels); use --device cpu"));
  }
  return absl::OkStatus();
}

}  // namespace conclave

#endif  // CONCLAVE_MOE_KERNELS_ACCELERATOR_DEVICE_FACTS_H_
