#include "moe/tensor/row_format.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <string>

#include "absl/strings/str_cat.h"
#include "moe/base/check.h"

namespace conclave {
namespace {

// A block of a row as floats; zeros beyond its end.
using Block = std::array<float, kFp8Block>;

constexpr int kScaleBias = 127;         // of ue8m0
constexpr int kScaleExponentMin = -100;  // below, products with its reciprocal would leave float32
constexpr float kNormalMin = 0x1p-6f;   // of e4m3; below, values are multiples of 2^-9
constexpr float kSubnormalSteps = 512;

float PowerOfTwo(int exponent) { return std::bit_cast<float>(static_cast<uint32_t>(exponent + 127) << 23); }

// The least exponent with which no value is above 448, the largest of e4m3. Both ends find the same one: rounding takes
// a block's largest value to 224 at least, and where it is just that, one scale less holds it as well.
int ScaleExponent(const Block& block) {
  int32_t largest = 0;  // as bits, which sort as the magnitudes do
  for (const float value : block) largest = std::max(largest, std::bit_cast<int32_t>(value) & 0x7fffffff);
  const int exponent = (largest >> 23) - 127;
  const bool above = (largest & 0x7fffff) > 0x600000;  // 1.75 * 2^exponent
  return std::max(exponent - (above ? 7 : 8), kScaleExponentMin);
}

void Load(const ConstMatView& rows, int64_t row, int64_t begin, int64_t count, Block& block) {
  if (rows.dtype == DType::kF32) {
    std::memcpy(block.data(), static_cast<const float*>(static_cast<const void*>(rows.RowBytes(row))) + begin,
                static_cast<size_t>(count) * sizeof(float));
  } else {
    const auto* from = static_cast<const uint16_t*>(static_cast<const void*>(rows.RowBytes(row))) + begin;
    for (int64_t i = 0; i < count; ++i) block[i] = std::bit_cast<float>(static_cast<uint32_t>(from[i]) << 16);
  }
  std::fill(block.begin() + count, block.end(), 0.0f);
}

// Values of a block fit BF16, whose upper half of a float32 they are.
void Store(const Block& block, const MatView& rows, int64_t row, int64_t begin, int64_t count) {
  if (rows.dtype == DType::kF32) {
    std::memcpy(static_cast<float*>(static_cast<void*>(rows.RowBytes(row))) + begin, block.data(),
                static_cast<size_t>(count) * sizeof(float));
  } else {
    auto* to = static_cast<uint16_t*>(static_cast<void*>(rows.RowBytes(row))) + begin;
    for (int64_t i = 0; i < count; ++i) to[i] = static_cast<uint16_t>(std::bit_cast<uint32_t>(block[i]) >> 16);
  }
}

// Without branches, so that compilers make vectors of it. REQUIRES: no magnitude above 448
float RoundToE4M3(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const float normal = std::bit_cast<float>((bits + 0x7ffffu + (bits >> 20 & 1)) & ~0xfffffu);
  constexpr float kShift = 1.5f * (1 << 14);  // one step of a float32 there is 2^-9
  const float subnormal = (value + kShift) - kShift;
  const bool small = std::bit_cast<float>(bits & 0x7fffffffu) < kNormalMin;
  return small ? subnormal : normal;
}

// REQUIRES: a value of e4m3
uint8_t CodeOf(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t magnitude = bits & 0x7fffffffu;
  const uint32_t normal = (magnitude >> 20) - (120u << 3);  // biases are 127 and 7
  const auto subnormal = static_cast<uint32_t>(static_cast<int32_t>(std::bit_cast<float>(magnitude) * kSubnormalSteps));
  return static_cast<uint8_t>(bits >> 24 & 0x80) |
         static_cast<uint8_t>(std::bit_cast<float>(magnitude) < kNormalMin ? subnormal : normal);
}

const std::array<float, 256>& Values() {
  static const std::array<float, 256> values = [] {
    std::array<float, 256> made;
    for (int code = 0; code < 256; ++code) made[code] = F8E4M3ToFloat(static_cast<uint8_t>(code));
    return made;
  }();
  return values;
}

void CheckRows(const ConstMatView& rows) {
  CONCLAVE_CHECK(rows.device == Device::kCpu && (rows.dtype == DType::kF32 || rows.dtype == DType::kBF16))
      << Name(rows.dtype);
}

// body(row, begin, count) of every block.
template <typename Body>
void ForBlocks(int64_t rows, int64_t cols, Body body) {
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t begin = 0; begin < cols; begin += kFp8Block) body(row, begin, std::min(kFp8Block, cols - begin));
  }
}

}  // namespace

absl::string_view Name(RowFormat format) { return format == RowFormat::kFp8 ? "fp8" : "compute"; }

absl::StatusOr<RowFormat> ParseRowFormat(absl::string_view name) {
  for (const RowFormat format : {RowFormat::kCompute, RowFormat::kFp8}) {
    if (name == Name(format)) return format;
  }
  return absl::InvalidArgumentError(absl::StrCat("expected compute or fp8, got '", name.substr(0, 60), "'"));
}

int64_t Fp8RowBytes(int64_t cols) { return cols + (cols + kFp8Block - 1) / kFp8Block; }

void RoundToFp8(ConstMatView from, MatView to) {
  CheckRows(to);
  CONCLAVE_CHECK(from.dtype == DType::kF32 && from.rows == to.rows && from.cols == to.cols) << Name(from.dtype);
  Block block;
  ForBlocks(from.rows, from.cols, [&](int64_t row, int64_t begin, int64_t count) {
    Load(from, row, begin, count, block);
    const int exponent = ScaleExponent(block);
    const float inverse = PowerOfTwo(-exponent), scale = PowerOfTwo(exponent);
    for (float& value : block) value = RoundToE4M3(value * inverse) * scale;
    Store(block, to, row, begin, count);
  });
}

void PackFp8(ConstMatView rows, std::byte* packed) {
  CheckRows(rows);
  Block block;
  std::array<uint8_t, kFp8Block> codes;
  const int64_t row_bytes = Fp8RowBytes(rows.cols);
  ForBlocks(rows.rows, rows.cols, [&](int64_t row, int64_t begin, int64_t count) {
    Load(rows, row, begin, count, block);
    const int exponent = ScaleExponent(block);
    const float inverse = PowerOfTwo(-exponent);
    for (int64_t i = 0; i < kFp8Block; ++i) codes[i] = CodeOf(RoundToE4M3(block[i] * inverse));
    std::byte* const to = packed + row * row_bytes;
    std::memcpy(to + begin, codes.data(), static_cast<size_t>(count));
    to[rows.cols + begin / kFp8Block] = static_cast<std::byte>(exponent + kScaleBias);
  });
}

void UnpackFp8(const std::byte* packed, MatView rows) {
  CheckRows(rows);
  const std::array<float, 256>& values = Values();
  Block block;
  const int64_t row_bytes = Fp8RowBytes(rows.cols);
  ForBlocks(rows.rows, rows.cols, [&](int64_t row, int64_t begin, int64_t count) {
    const std::byte* const from = packed + row * row_bytes;
    const float scale = F8E8M0ToFloat(static_cast<uint8_t>(from[rows.cols + begin / kFp8Block]));
    for (int64_t i = 0; i < count; ++i) block[i] = values[static_cast<uint8_t>(from[begin + i])] * scale;
    Store(block, rows, row, begin, count);
  });
}

}  // namespace conclave
