// Non-owning, type-erased row-major matrices. Views are passed by value and never own; copies have names.
#ifndef CONCLAVE_MOE_TENSOR_MAT_VIEW_H_
#define CONCLAVE_MOE_TENSOR_MAT_VIEW_H_

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "moe/base/check.h"
#include "moe/tensor/dtype.h"

namespace conclave {

// Where the bytes live. kCpu pointers may be read by this process; kCuda pointers only by kernels.
enum class Device : uint8_t { kCpu = 0, kCuda = 1 };

// A matrix [rows, cols]; rows are `stride` elements apart and contiguous within. `Pointer` is (const) void*.
template <typename Pointer>
struct BasicMatView {
  Pointer data = nullptr;
  DType dtype = DType::kF32;
  Device device = Device::kCpu;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t stride = 0;  // elements between the starts of two rows, >= cols

  // The start of row `row`, as bytes. REQUIRES: 0 <= row <= rows
  auto RowBytes(int64_t row) const {
    using Byte = std::conditional_t<std::is_const_v<std::remove_pointer_t<Pointer>>, const std::byte, std::byte>;
    return static_cast<Byte*>(data) + row * stride * SizeOf(dtype);
  }
  // The start of row `row` as elements of type T. REQUIRES: T matches dtype
  template <typename T>
  auto Row(int64_t row) const {
    using Element = std::conditional_t<std::is_const_v<std::remove_pointer_t<Pointer>>, const T, T>;
    CONCLAVE_CHECK(static_cast<int>(sizeof(T)) == SizeOf(dtype)) << "view of " << Name(dtype);
    return reinterpret_cast<Element*>(RowBytes(row));
  }
  // Rows [begin, begin + count).
  BasicMatView Rows(int64_t begin, int64_t count) const {
    CONCLAVE_CHECK(begin >= 0 && count >= 0 && begin + count <= rows) << begin << "+" << count << " of " << rows;
    BasicMatView view = *this;
    view.data = RowBytes(begin);
    view.rows = count;
    return view;
  }
  // Columns [begin, begin + count) of every row.
  BasicMatView Cols(int64_t begin, int64_t count) const {
    CONCLAVE_CHECK(begin >= 0 && count >= 0 && begin + count <= cols) << begin << "+" << count << " of " << cols;
    BasicMatView view = *this;
    view.data = RowBytes(0) + begin * SizeOf(dtype);
    view.cols = count;
    return view;
  }
};

using MatView = BasicMatView<void*>;

// A view that may not be written through; every MatView converts to it.
struct ConstMatView : BasicMatView<const void*> {
  ConstMatView() = default;
  ConstMatView(const BasicMatView<const void*>& view) : BasicMatView<const void*>(view) {}  // NOLINT
  ConstMatView(const MatView& view)                                                         // NOLINT
      : BasicMatView<const void*>{view.data, view.dtype, view.device, view.rows, view.cols, view.stride} {}
};

// A contiguous float32 view over memory on the CPU.
inline MatView ViewF32(float* data, int64_t rows, int64_t cols) {
  return MatView{data, DType::kF32, Device::kCpu, rows, cols, cols};
}
inline ConstMatView ViewF32(const float* data, int64_t rows, int64_t cols) {
  return BasicMatView<const void*>{data, DType::kF32, Device::kCpu, rows, cols, cols};
}

}  // namespace conclave

#endif  // CONCLAVE_MOE_TENSOR_MAT_VIEW_H_
