#include "moe/tensor/dtype.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "absl/strings/str_cat.h"
#include "moe/base/check.h"

namespace conclave {
namespace {

struct DTypeRow {
  DType dtype;
  const char* name;
  int bytes;
};

constexpr std::array<DTypeRow, 16> kDTypes = {{
    {DType::kF32, "F32", 4},       {DType::kF16, "F16", 2},         {DType::kBF16, "BF16", 2},
    {DType::kF8E4M3, "F8_E4M3", 1}, {DType::kF8E8M0, "F8_E8M0", 1}, {DType::kI32, "I32", 4},
    {DType::kI64, "I64", 8},       {DType::kU8, "U8", 1},           {DType::kI8, "I8", 1},
    {DType::kF64, "F64", 8},       {DType::kBool, "BOOL", 1},       {DType::kI16, "I16", 2},
    {DType::kF8E5M2, "F8_E5M2", 1}, {DType::kU16, "U16", 2},        {DType::kU32, "U32", 4},
    {DType::kU64, "U64", 8},
}};

const DTypeRow& Find(DType dtype) {
  for (const DTypeRow& row : kDTypes) {
    if (row.dtype == dtype) return row;
  }
  CONCLAVE_CHECK(false) << "dtype " << static_cast<int>(dtype);
  __builtin_unreachable();
}

template <typename T>
T LoadElement(const void* data, int64_t index) {
  T value;
  std::memcpy(&value, static_cast<const std::byte*>(data) + index * sizeof(T), sizeof(T));
  return value;
}

}  // namespace

int SizeOf(DType dtype) { return Find(dtype).bytes; }
absl::string_view Name(DType dtype) { return Find(dtype).name; }

absl::StatusOr<DType> ParseDType(absl::string_view name) {
  for (const DTypeRow& row : kDTypes) {
    if (name == row.name) return row.dtype;
  }
  return absl::InvalidArgumentError(absl::StrCat("unknown dtype \"", name, "\""));
}

float Bf16ToFloat(uint16_t bits) { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }

uint16_t FloatToBf16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);  // keep it a NaN
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

float F16ToFloat(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000u) << 16;
  const uint32_t exponent = (bits >> 10) & 0x1fu;
  const uint32_t mantissa = bits & 0x3ffu;
  if (exponent == 0x1f) return std::bit_cast<float>(sign | 0x7f800000u | (mantissa << 13));
  if (exponent != 0) return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (mantissa << 13));
  const float magnitude = std::ldexp(static_cast<float>(mantissa), -24);
  return sign ? -magnitude : magnitude;
}

float F8E4M3ToFloat(uint8_t bits) {
  const uint32_t exponent = (bits >> 3) & 0xfu;
  const uint32_t mantissa = bits & 0x7u;
  if ((bits & 0x7fu) == 0x7fu) return std::numeric_limits<float>::quiet_NaN();
  const float magnitude = exponent == 0
                              ? std::ldexp(static_cast<float>(mantissa), -9)
                              : std::ldexp(static_cast<float>(8 + mantissa), static_cast<int>(exponent) - 10);
  return (bits & 0x80u) ? -magnitude : magnitude;
}

uint8_t FloatToF8E4M3(float value) {
  const uint8_t sign = std::signbit(value) ? 0x80 : 0;
  if (std::isnan(value)) return sign | 0x7f;
  const float magnitude = std::min(std::fabs(value), 448.0f);
  int exponent = 0;
  std::frexp(magnitude, &exponent);                       // magnitude = f * 2^exponent, f in [0.5, 1)
  const int step = std::max(exponent - 4, -9);            // the weight of the last mantissa bit
  const int units = static_cast<int>(std::nearbyint(std::ldexp(magnitude, -step)));
  if (units < 8) return sign | static_cast<uint8_t>(units);  // subnormal (step is -9)
  const int carried = units == 16 ? 1 : 0;
  const int biased = step + 10 + carried;
  return sign | static_cast<uint8_t>((biased << 3) | (carried ? 0 : units - 8));
}

float F8E8M0ToFloat(uint8_t bits) {
  if (bits == 0xff) return std::numeric_limits<float>::quiet_NaN();
  return std::ldexp(1.0f, static_cast<int>(bits) - 127);
}

float LoadAsFloat(const void* data, DType dtype, int64_t index) {
  switch (dtype) {
    case DType::kF32: return LoadElement<float>(data, index);
    case DType::kF64: return static_cast<float>(LoadElement<double>(data, index));
    case DType::kF16: return F16ToFloat(LoadElement<uint16_t>(data, index));
    case DType::kBF16: return Bf16ToFloat(LoadElement<uint16_t>(data, index));
    case DType::kF8E4M3: return F8E4M3ToFloat(LoadElement<uint8_t>(data, index));
    case DType::kF8E8M0: return F8E8M0ToFloat(LoadElement<uint8_t>(data, index));
    case DType::kI32: return static_cast<float>(LoadElement<int32_t>(data, index));
    case DType::kI64: return static_cast<float>(LoadElement<int64_t>(data, index));
    case DType::kI8: return static_cast<float>(LoadElement<int8_t>(data, index));
    case DType::kU8: return static_cast<float>(LoadElement<uint8_t>(data, index));
    default: break;
  }
  CONCLAVE_CHECK(false) << "no float reading of " << Name(dtype);
  __builtin_unreachable();
}

}  // namespace conclave
