// Element types as checkpoints store them and kernels compute with them.
#ifndef CONCLAVE_MOE_TENSOR_DTYPE_H_
#define CONCLAVE_MOE_TENSOR_DTYPE_H_

#include <cstdint>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace conclave {

enum class DType : uint8_t {
  kF32 = 1,
  kF16 = 2,
  kBF16 = 3,
  kF8E4M3 = 4,   // e4m3fn: no infinities, 0x7f/0xff are NaN, largest 448 (Micikevicius et al. 2022)
  kF8E8M0 = 5,   // ue8m0 block scales: 2^(byte - 127), 0xff is NaN (OCP MX specification 1.0, section 5.4.1)
  kI32 = 6,
  kI64 = 7,
  kU8 = 8,
  kI8 = 9,
  kF64 = 10,
  kBool = 11,
  kI16 = 12,
  kF8E5M2 = 13,
  kU16 = 14,
  kU32 = 15,
  kU64 = 16,
};

// Bytes of one element.
int SizeOf(DType dtype);
// The safetensors spelling: "F32", "BF16", "F8_E4M3", …
absl::string_view Name(DType dtype);
// The reverse of Name. INVALID_ARGUMENT for an unknown spelling.
absl::StatusOr<DType> ParseDType(absl::string_view name);

// Scalar conversions; rounding is to nearest, ties to even; NaN stays NaN.
float Bf16ToFloat(uint16_t bits);
uint16_t FloatToBf16(float value);
float F16ToFloat(uint16_t bits);
float F8E4M3ToFloat(uint8_t bits);
uint8_t FloatToF8E4M3(float value);  // saturates to +-448, as DeepSeek's checkpoints do
float F8E8M0ToFloat(uint8_t bits);
// Reads element `index` of an array of `dtype` as float. REQUIRES: dtype is a floating type or an integer.
float LoadAsFloat(const void* data, DType dtype, int64_t index);

}  // namespace conclave

#endif  // CONCLAVE_MOE_TENSOR_DTYPE_H_
