// Owning, 64-byte aligned memory for activations and caches: sized at start, reused every step.
#ifndef CONCLAVE_MOE_TENSOR_BUFFER_H_
#define CONCLAVE_MOE_TENSOR_BUFFER_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>

#include "moe/tensor/mat_view.h"

namespace conclave {

// Gives memory of another kind than the allocator's, such as pinned memory, with at least 64-byte alignment; it is free
// again when the last copy of the pointer goes. Null: there is none.
using HostMemory = std::function<std::shared_ptr<void>(int64_t bytes)>;

// A matrix [rows, cols] that owns its bytes. Movable, not copyable. Rows are contiguous (stride == cols).
class MatBuffer {
 public:
  MatBuffer() = default;
  // Zeroed. REQUIRES: rows, cols >= 0 and the product of sizes fits the address space.
  MatBuffer(DType dtype, int64_t rows, int64_t cols);
  // In `memory`, where that is not null and gives some.
  MatBuffer(DType dtype, int64_t rows, int64_t cols, const HostMemory& memory);

  MatView view() { return view_; }
  ConstMatView view() const { return view_; }
  // The first `rows` rows. REQUIRES: rows <= capacity
  MatView first(int64_t rows) { return view_.Rows(0, rows); }
  int64_t bytes() const { return view_.rows * view_.cols * SizeOf(view_.dtype); }

 private:
  struct Free {
    void operator()(std::byte* bytes) const;
  };
  std::unique_ptr<std::byte, Free> bytes_;  // or …
  std::shared_ptr<void> given_;             // … by a HostMemory
  MatView view_;
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_TENSOR_BUFFER_H_
