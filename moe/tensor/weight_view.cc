#include "moe/tensor/weight_view.h"

namespace conclave {

float StoredValue(const WeightView& weight, int64_t row, int64_t col) {
  const std::byte* bytes = weight.matrix.RowBytes(row);
  switch (weight.code) {
    case WeightCode::kPlain:
      return LoadAsFloat(bytes, weight.matrix.dtype, col);
    case WeightCode::kInt8:
      return static_cast<float>(static_cast<int>(bytes[col]) - 128);
    case WeightCode::kInt4:
      return static_cast<float>((static_cast<int>(bytes[col / 2]) >> (col % 2 * 4) & 0xf) - 8);
  }
  CONCLAVE_CHECK(false) << "code " << static_cast<int>(weight.code);
  __builtin_unreachable();
}

float ScaleOf(const WeightView& weight, int64_t row, int64_t col) {
  if (!weight.has_scales()) return 1.0f;
  return LoadAsFloat(weight.scales.RowBytes(row / weight.block_rows), weight.scales.dtype, col / weight.block_cols);
}

int64_t StoredBytes(const WeightView& weight) {
  const int64_t elements = weight.matrix.rows * weight.matrix.cols * SizeOf(weight.matrix.dtype);
  if (!weight.has_scales()) return elements;
  return elements + weight.scales.rows * weight.scales.cols * SizeOf(weight.scales.dtype);
}

}  // namespace conclave
