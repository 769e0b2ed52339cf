// Memory of an accelerator under a limit: who asked for how much, so that a model that does not fit is refused with
// the whole plan, before a byte of it is copied.
#ifndef CONCLAVE_MOE_MODEL_DEVICE_DEVICE_MEMORY_H_
#define CONCLAVE_MOE_MODEL_DEVICE_DEVICE_MEMORY_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "moe/kernels/accelerator/accelerator.h"

namespace conclave {

// Owns a piece of device or pinned host memory. Movable. The accelerator must outlive it.
class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  DeviceBuffer(Accelerator& accelerator, void* data, bool on_host)
      : accelerator_(&accelerator), data_(data), on_host_(on_host) {}
  ~DeviceBuffer() { Reset(); }
  DeviceBuffer(DeviceBuffer&& other) noexcept { *this = std::move(other); }
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept;

  template <typename T>
  T* as() const {
    return static_cast<T*>(data_);
  }
  void Reset();

 private:
  Accelerator* accelerator_ = nullptr;
  void* data_ = nullptr;
  bool on_host_ = false;
};

// One accelerator's ledger. Used by one thread at a time.
class DeviceMemory {
 public:
  // limit_bytes 0: nearly all that was free when the accelerator was opened.
  DeviceMemory(Accelerator& accelerator, int64_t limit_bytes);

  Accelerator& accelerator() { return accelerator_; }
  // Notes that `bytes` will be allocated for `what`. RESOURCE_EXHAUSTED, with every line of the plan, where that is
  // more than the limit leaves; nothing is noted then.
  absl::Status Reserve(absl::string_view what, int64_t bytes);
  // Takes back what a Reserve of `what` noted, once the memory is free again.
  void Release(absl::string_view what, int64_t bytes);
  // Of what was reserved; zeroed. RESOURCE_EXHAUSTED with the plan where the device refuses all the same.
  absl::StatusOr<DeviceBuffer> Allocate(int64_t bytes);
  absl::StatusOr<DeviceBuffer> AllocateHost(int64_t bytes);
  // One line for each part, then what is left; for the log and for errors.
  std::string Plan() const;

  // Allocations are rounded up to this.
  static int64_t Rounded(int64_t bytes) { return (bytes + 255) / 256 * 256; }

 private:
  int64_t Reserved() const;
  void Note(absl::string_view what, int64_t bytes);

  Accelerator& accelerator_;
  const int64_t limit_bytes_;
  std::vector<std::pair<std::string, int64_t>> parts_;
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_MODEL_DEVICE_DEVICE_MEMORY_H_
