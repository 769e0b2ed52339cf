// Memory of an accelerator that owns itself, for what must not know of accelerators: pinned, or shared with others.
#ifndef CONCLAVE_MOE_KERNELS_ACCELERATOR_PINNED_MEMORY_H_
#define CONCLAVE_MOE_KERNELS_ACCELERATOR_PINNED_MEMORY_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <utility>

#include "absl/status/statusor.h"
#include "moe/kernels/accelerator/accelerator.h"
#include "moe/kernels/accelerator/device_stream.h"
#include "moe/tensor/buffer.h"

namespace conclave {

// Of one stream, for its thread.
inline HostMemory PinnedMemory(std::shared_ptr<DeviceStream> stream) {
  return [stream = std::move(stream)](int64_t bytes) -> std::shared_ptr<void> {
    const auto memory = stream->AllocateHost(bytes);
    if (!memory.ok()) return nullptr;
    return std::shared_ptr<void>(*memory, [stream](void* piece) { stream->FreeHost(piece); });
  };
}

// Each piece has a stream of its own, so that any thread may ask and free. Freeing waits for the device's work. The
// accelerator must be there when memory is asked for.
inline HostMemory PinnedMemory(Accelerator& accelerator) {
  return [&accelerator](int64_t bytes) -> std::shared_ptr<void> {
    auto stream = accelerator.NewStream();
    return stream.ok() ? PinnedMemory(*std::move(stream))(bytes) : nullptr;
  };
}

// Device memory that other processes can map (DeviceStream::AllocateShared), with a stream of its own likewise.
// RESOURCE_EXHAUSTED: there is too little left.
inline absl::StatusOr<std::shared_ptr<void>> AllocateDevicePiece(Accelerator& accelerator, int64_t bytes) {
  auto made = accelerator.NewStream();
  if (!made.ok()) return made.status();
  const std::shared_ptr<DeviceStream> stream = *std::move(made);
  const auto memory = stream->AllocateShared(bytes);
  if (!memory.ok()) return memory.status();
  std::shared_ptr<void> piece(*memory, [stream](void* data) { stream->FreeShared(data); });
  // Memory is the stream's until its queue has come to it.
  if (absl::Status waited = stream->Await(); !waited.ok()) return waited;
  return piece;
}

// The same for what must not know of accelerators; null where there is none.
inline std::function<std::shared_ptr<void>(int64_t bytes)> SharedDeviceMemory(Accelerator& accelerator) {
  return [&accelerator](int64_t bytes) { return AllocateDevicePiece(accelerator, bytes).value_or(nullptr); };
}

}  // namespace conclave

#endif  // CONCLAVE_MOE_KERNELS_ACCELERATOR_PINNED_MEMORY_H_
