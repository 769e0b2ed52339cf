#include "moe/tensor/finite_rows.h"

#include <cstddef>
#include <cstring>

#include "moe/base/check.h"

namespace conclave {
namespace {

// A word of eight bytes as two or four values.
struct Lanes {
  uint64_t signs, exponents;
  uint64_t lowest;  // bit of each exponent
  uint64_t half;    // of what the lowest bit that survives rounding is worth
};
constexpr Lanes kF32 = {0x8000000080000000u, 0x7f8000007f800000u, 0x0080000000800000u, 0};
constexpr Lanes kF32AsBf16 = {0x8000000080000000u, 0x7f8000007f800000u, 0x0080000000800000u, 0x0000800000008000u};
constexpr Lanes kBf16 = {0x8000800080008000u, 0x7f807f807f807f80u, 0x0080008000800080u, 0};

// A value is not finite where all bits of its exponent are set, and only there does adding the exponent's lowest bit
// carry into the sign's place, which was cleared.
bool AllFinite(const std::byte* bytes, int64_t count, const Lanes& lanes) {
  uint64_t carried = 0;
  for (int64_t i = 0; i < count; i += 8) {
    uint64_t word = 0;
    std::memcpy(&word, bytes + i, static_cast<size_t>(count - i < 8 ? count - i : 8));
    const uint64_t rounded = (word & ~lanes.signs) + lanes.half;
    carried |= rounded | ((rounded & lanes.exponents) + lanes.lowest);
  }
  return (carried & lanes.signs) == 0;
}

}  // namespace

int64_t FirstNonFiniteRow(ConstMatView rows, DType rounded_to) {
  const bool narrow = rows.dtype == DType::kBF16;
  CONCLAVE_CHECK(rows.device == Device::kCpu && (narrow || rows.dtype == DType::kF32) &&
                 (rounded_to == rows.dtype || rounded_to == DType::kBF16))
      << Name(rows.dtype) << " to " << Name(rounded_to);
  const Lanes& lanes = narrow ? kBf16 : rounded_to == DType::kBF16 ? kF32AsBf16 : kF32;
  const int64_t row_bytes = rows.cols * SizeOf(rows.dtype);
  for (int64_t row = 0; row < rows.rows; ++row) {
    if (!AllFinite(rows.RowBytes(row), row_bytes, lanes)) return row;
  }
  return -1;
}

}  // namespace conclave
