#include "moe/tensor/buffer.h"

#include <cstring>
#include <new>

namespace conclave {
namespace {
constexpr std::align_val_t kAlignment{64};
}  // namespace

void MatBuffer::Free::operator()(std::byte* bytes) const { ::operator delete(bytes, kAlignment); }

MatBuffer::MatBuffer(DType dtype, int64_t rows, int64_t cols) {
  CONCLAVE_CHECK(rows >= 0 && cols >= 0) << rows << "x" << cols;
  const int64_t bytes = rows * cols * SizeOf(dtype);
  bytes_.reset(static_cast<std::byte*>(::operator new(bytes > 0 ? bytes : 1, kAlignment)));
  std::memset(bytes_.get(), 0, bytes);
  view_ = MatView{bytes_.get(), dtype, Device::kCpu, rows, cols, cols};
}

}  // namespace conclave
