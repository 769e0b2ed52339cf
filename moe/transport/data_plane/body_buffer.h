// Aligned bytes for message bodies, which grow, are never zeroed and are used again.
#ifndef CONCLAVE_MOE_TRANSPORT_DATA_PLANE_BODY_BUFFER_H_
#define CONCLAVE_MOE_TRANSPORT_DATA_PLANE_BODY_BUFFER_H_

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <utility>

#include "moe/base/check.h"
#include "moe/tensor/buffer.h"

namespace conclave {

// 64-byte aligned. Movable. The bytes are unspecified until written.
class BodyBuffer {
 public:
  BodyBuffer() = default;
  // Its bytes come from `memory`, where that is not null and gives some.
  explicit BodyBuffer(HostMemory memory) : memory_(std::move(memory)) {}
  BodyBuffer(BodyBuffer&&) = default;
  BodyBuffer& operator=(BodyBuffer&&) = default;

  std::byte* data() const { return static_cast<std::byte*>(bytes_.get()); }
  int64_t capacity() const { return capacity_; }

  // Makes room for `bytes`, keeping the first `kept`.
  void Reserve(int64_t bytes, int64_t kept = 0) {
    if (bytes <= capacity_) return;
    const std::shared_ptr<void> old = bytes_;
    if (memory_ == nullptr || !TryReserve(bytes)) {
      capacity_ = (bytes + 63) / 64 * 64;
      bytes_.reset(std::aligned_alloc(64, static_cast<size_t>(capacity_)), &std::free);
      CONCLAVE_CHECK(bytes_ != nullptr) << "no memory for a message of " << bytes << " bytes";
    }
    if (kept > 0) std::memcpy(bytes_.get(), old.get(), static_cast<size_t>(kept));
  }
  // The same, keeping nothing, out of the memory that was given alone. False: it gives none. REQUIRES: some was given
  bool TryReserve(int64_t bytes) {
    if (bytes <= capacity_) return true;
    const int64_t grown = GivenBytes(bytes);
    std::shared_ptr<void> fresh = memory_(grown);
    if (fresh == nullptr) return false;
    bytes_ = std::move(fresh);
    capacity_ = grown;
    return true;
  }
  // How much is asked for where memory is given and `bytes` are needed.
  static int64_t GivenBytes(int64_t bytes) {
    int64_t given = kGivenBytesMin;
    while (given < bytes) given *= 2;
    return given;
  }
  // Gives the memory back where it is more than is worth keeping for the next message.
  void Trim() {
    if (capacity_ <= (memory_ == nullptr ? kKeptBytesMax : kKeptGivenBytesMax)) return;
    bytes_.reset();
    capacity_ = 0;
  }

 private:
  static constexpr int64_t kKeptBytesMax = int64_t{32} << 20;
  // Pinned memory takes the system a hundred times as long to make as other memory.
  static constexpr int64_t kGivenBytesMin = int64_t{64} << 10, kKeptGivenBytesMax = int64_t{256} << 20;

  HostMemory memory_;
  std::shared_ptr<void> bytes_;
  int64_t capacity_ = 0;
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_TRANSPORT_DATA_PLANE_BODY_BUFFER_H_
