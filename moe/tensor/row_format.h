// In which numbers rows travel to experts and latents are cached, and what eight bits a value can carry.
#ifndef CONCLAVE_MOE_TENSOR_ROW_FORMAT_H_
#define CONCLAVE_MOE_TENSOR_ROW_FORMAT_H_

#include <cstddef>
#include <cstdint>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "moe/tensor/mat_view.h"

namespace conclave {

// Rows on their way to experts (what comes back is always in the profile's row dtype), and rows of the latent cache.
enum class RowFormat : uint8_t {
  kCompute,  // the profile's row dtype, or its cache dtype
  // e4m3 times a power of two for each kFp8Block values of a row, as DeepSeek-V3 dispatches its rows (DeepSeek-AI 2024,
  // section 3.3) but for the scale, which is there a float32: a power of two loses nothing where such a row is packed
  // again, or stored as BF16, so that experts need not know how it travelled. In the cache: moe/tensor/latent_row.h.
  kFp8,
};

// "compute" or "fp8".
absl::string_view Name(RowFormat format);
// The reverse. INVALID_ARGUMENT for an unknown name.
absl::StatusOr<RowFormat> ParseRowFormat(absl::string_view name);

inline constexpr int64_t kFp8Block = 128;
// Bytes of one packed row of `cols` values: their e4m3 codes, then one ue8m0 scale for each block of them.
int64_t Fp8RowBytes(int64_t cols);

// to[i] = from[i] rounded once, to nearest, ties to even, with the smallest scale that fits each block's largest value.
// REQUIRES: from [rows, cols] F32, finite; to [rows, cols] F32 or BF16
void RoundToFp8(ConstMatView from, MatView to);
// Writes rows.rows * Fp8RowBytes(rows.cols) bytes. What RoundToFp8 made comes back from UnpackFp8 bit for bit.
// REQUIRES: rows [rows, cols] F32 or BF16
void PackFp8(ConstMatView rows, std::byte* packed);
// Survives any bytes: some make values that are not finite. REQUIRES: rows [rows, cols] F32 or BF16
void UnpackFp8(const std::byte* packed, MatView rows);

}  // namespace conclave

#endif  // CONCLAVE_MOE_TENSOR_ROW_FORMAT_H_
