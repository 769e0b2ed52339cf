#include "moe/tensor/buffer.h"

#include <cstdlib>
#include <cstring>
#include <utility>

namespace conclave {
namespace {

constexpr int64_t kAlignment = 64;

// What the allocator returned, kept right in front of the aligned bytes.
void*& AllocationOf(std::byte* bytes) { return reinterpret_cast<void**>(bytes)[-1]; }

}  // namespace

void MatBuffer::Free::operator()(std::byte* bytes) const { std::free(AllocationOf(bytes)); }

MatBuffer::MatBuffer(DType dtype, int64_t rows, int64_t cols) {
  CONCLAVE_CHECK(rows >= 0 && cols >= 0) << rows << "x" << cols;
  const int64_t bytes = rows * cols * SizeOf(dtype);
  // calloc takes large blocks from the kernel, which zeroes a page when it is first touched: a KV pool that is sized
  // for the worst case costs nothing until it is used.
  void* allocation = std::calloc(bytes + 2 * kAlignment, 1);
  CONCLAVE_CHECK(allocation != nullptr) << "out of memory for " << bytes << " bytes";
  const auto address = reinterpret_cast<uintptr_t>(allocation);
  bytes_.reset(reinterpret_cast<std::byte*>((address / kAlignment + 1) * kAlignment));
  AllocationOf(bytes_.get()) = allocation;
  view_ = MatView{bytes_.get(), dtype, Device::kCpu, rows, cols, cols};
}

MatBuffer::MatBuffer(DType dtype, int64_t rows, int64_t cols, const HostMemory& memory) {
  const int64_t bytes = rows * cols * SizeOf(dtype);
  if (memory != nullptr && bytes > 0) given_ = memory(bytes);
  if (given_ == nullptr) {
    *this = MatBuffer(dtype, rows, cols);
    return;
  }
  std::memset(given_.get(), 0, static_cast<size_t>(bytes));
  view_ = MatView{given_.get(), dtype, Device::kCpu, rows, cols, cols};
}

}  // namespace conclave
