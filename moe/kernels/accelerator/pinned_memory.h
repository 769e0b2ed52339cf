// Memory of an accelerator that owns itself, for what must not know of accelerators: pinned, or shared with others.
#ifndef CONCLAVE_MOE_KERNELS_ACCELERATOR_PINNED_MEMORY_H_
#define CONCLAVE_MOE_KERNELS_ACCELERATOR_PINNED_MEMORY_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <utility>

#include "moe/kernels/accelerator/accelerator.h"
#include "moe/tensor/buffer.h"

namespace conclave {

// Each piece has a stream of its own, so that any thread may ask and free. Freeing waits for the device's work. The
// accelerator must be there when memory is asked for.
inline HostMemory PinnedMemory(Accelerator& accelerator) {
  return [&accelerator](int64_t bytes) -> std::shared_ptr<void> {
    auto made = accelerator.NewStream();
    if (!made.ok()) return nullptr;
    std::shared_ptr<DeviceStream> stream = *std::move(made);
    const auto memory = stream->AllocateHost(bytes);
    if (!memory.ok()) return nullptr;
    return std::shared_ptr<void>(*memory, [stream](void* piece) { stream->FreeHost(piece); });
  };
}

// The same of device memory that other processes can map (DeviceStream::AllocateShared).
inline std::function<std::shared_ptr<void>(int64_t bytes)> SharedDeviceMemory(Accelerator& accelerator) {
  return [&accelerator](int64_t bytes) -> std::shared_ptr<void> {
    auto made = accelerator.NewStream();
    if (!made.ok()) return nullptr;
    std::shared_ptr<DeviceStream> stream = *std::move(made);
    const auto memory = stream->AllocateShared(bytes);
    if (!memory.ok()) return nullptr;
    return std::shared_ptr<void>(*memory, [stream](void* piece) { stream->FreeShared(piece); });
  };
}

}  // namespace conclave

#endif  // CONCLAVE_MOE_KERNELS_ACCELERATOR_PINNED_MEMORY_H_
