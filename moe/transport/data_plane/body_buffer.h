// Aligned bytes for message bodies, which grow, are never zeroed and are used again.
#ifndef CONCLAVE_MOE_TRANSPORT_DATA_PLANE_BODY_BUFFER_H_
#define CONCLAVE_MOE_TRANSPORT_DATA_PLANE_BODY_BUFFER_H_

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "moe/base/check.h"

namespace conclave {

// 64-byte aligned. Movable. The bytes are unspecified until written.
class BodyBuffer {
 public:
  std::byte* data() const { return bytes_.get(); }
  int64_t capacity() const { return capacity_; }

  // Makes room for `bytes`, keeping the first `kept`.
  void Reserve(int64_t bytes, int64_t kept = 0) {
    if (bytes <= capacity_) return;
    const int64_t grown = (bytes + 63) / 64 * 64;
    auto* fresh = static_cast<std::byte*>(std::aligned_alloc(64, static_cast<size_t>(grown)));
    CONCLAVE_CHECK(fresh != nullptr) << "no memory for a message of " << bytes << " bytes";
    if (kept > 0) std::memcpy(fresh, bytes_.get(), static_cast<size_t>(kept));
    bytes_.reset(fresh);
    capacity_ = grown;
  }
  // Gives the memory back where it is more than `bytes_max`.
  void TrimTo(int64_t bytes_max) {
    if (capacity_ <= bytes_max) return;
    bytes_.reset();
    capacity_ = 0;
  }

 private:
  struct Free {
    void operator()(std::byte* bytes) const { std::free(bytes); }
  };
  std::unique_ptr<std::byte, Free> bytes_;
  int64_t capacity_ = 0;
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_TRANSPORT_DATA_PLANE_BODY_BUFFER_H_
