// A place in an accelerator's queue: whoever takes memory that the queue's work makes can wait for it, on a queue
// beside (DeviceStream::WaitFor) or on the host.
#ifndef CONCLAVE_MOE_KERNELS_ACCELERATOR_DEVICE_EVENT_H_
#define CONCLAVE_MOE_KERNELS_ACCELERATOR_DEVICE_EVENT_H_

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace conclave {

// Has come about until it is recorded for the first time. Any thread may ask and wait, while no thread records. May
// outlive the accelerator.
class DeviceEvent {
 public:
  virtual ~DeviceEvent() = default;
  // The vendor's handle: a cudaEvent_t.
  virtual void* native() const = 0;
  // Whether all work before the place where it was last recorded has ended; never waits. INTERNAL or UNAVAILABLE: the
  // device is lost, and it never will.
  virtual absl::StatusOr<bool> Done() const = 0;
  // Waits for it. Errors as Done.
  virtual absl::Status Wait() const = 0;
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_KERNELS_ACCELERATOR_DEVICE_EVENT_H_
