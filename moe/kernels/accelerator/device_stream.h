// A queue of work of its own on an accelerator's device, for those that move memory: copies, and what a transport's
// library puts there through the vendor's handle. It runs beside the accelerator's queue and knows nothing of it but
// the events that it is told to wait for.
#ifndef CONCLAVE_MOE_KERNELS_ACCELERATOR_DEVICE_STREAM_H_
#define CONCLAVE_MOE_KERNELS_ACCELERATOR_DEVICE_STREAM_H_

#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "moe/kernels/accelerator/device_event.h"

namespace conclave {

// Used by one thread at a time, which need not be the accelerator's. May outlive the accelerator.
class DeviceStream {
 public:
  // Waits for the queued work; all of its memory must have been freed before.
  virtual ~DeviceStream() = default;
  // The vendor's handle of the queue: a cudaStream_t.
  virtual void* native() const = 0;
  // Makes the device the calling thread's, as libraries want it that take native().
  virtual void MakeCurrent() = 0;

  // Device memory, 256-byte aligned, of unspecified content; host memory that the device copies from and to at full
  // speed. RESOURCE_EXHAUSTED: there is too little left. Free waits for no other queue of the device.
  virtual absl::StatusOr<void*> Allocate(int64_t bytes) = 0;
  virtual void Free(void* memory) = 0;
  // Device memory that other processes can map, where the device has such; freeing it may wait for all of its queues.
  virtual absl::StatusOr<void*> AllocateShared(int64_t bytes) { return Allocate(bytes); }
  virtual void FreeShared(void* memory) { Free(memory); }
  virtual absl::StatusOr<void*> AllocateHost(int64_t bytes) = 0;
  virtual void FreeHost(void* memory) = 0;
  // Whether the device copies from and to `host` at full speed: it lies in memory of AllocateHost, of whatever stream
  // or accelerator of this process.
  virtual bool Pinned(const void* host) const = 0;

  // In the order of the queue, between device memory and pinned host memory. What goes wrong comes out of
  // Idle.
  virtual void CopyIn(void* device, const void* host, int64_t bytes) = 0;
  virtual void CopyOut(void* host, const void* device, int64_t bytes) = 0;
  // Between device memory and device memory.
  virtual void CopyWithin(void* to, const void* from, int64_t bytes) = 0;
  // What is queued from now on starts after the work that `event` stands for; the host goes on.
  virtual void WaitFor(const DeviceEvent& event) = 0;
  // An event of the device. Errors say what it refused.
  virtual absl::StatusOr<std::unique_ptr<DeviceEvent>> NewEvent() = 0;
  // `event`, of NewEvent, now stands for what has been queued here so far.
  virtual void Record(DeviceEvent& event) = 0;
  // Whether all queued work has ended; never waits. INTERNAL or UNAVAILABLE: it failed, or the device is lost.
  virtual absl::StatusOr<bool> Idle() = 0;
  // Waits for all queued work, awake. Errors as Idle.
  absl::Status Await() {
    absl::StatusOr<bool> idle = false;
    while (idle.ok() && !*idle) idle = Idle();
    return idle.status();
  }
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_KERNELS_ACCELERATOR_DEVICE_STREAM_H_
