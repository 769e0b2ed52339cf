#include "moe/tensor/latent_row.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "moe/tensor/mat_view.h"
#include "moe/tensor/row_format.h"

namespace conclave {
namespace {

static_assert(LatentRowLayout::kLatentBlock == kFp8Block);

constexpr auto kScaleOfNaN = std::byte{0xff};  // of ue8m0

}  // namespace

void PackLatentRow(const LatentRowLayout& layout, const float* row, std::byte* packed) {
  for (int64_t block = 0; block < layout.scales(); ++block) {
    const int64_t first = block * kFp8Block, count = std::min(kFp8Block, layout.latent - first);
    std::byte& scale = packed[layout.scales_at() + block];
    // A value that is not finite must not be mended: its sequence ends with an error (Transformer::SliceStatus).
    if (!std::all_of(row + first, row + first + count, [](float value) { return std::isfinite(value); })) {
      std::memset(packed + first, 0, static_cast<size_t>(count));
      scale = kScaleOfNaN;
      continue;
    }
    std::array<std::byte, kFp8Block + 1> codes;  // and their scale
    PackFp8(ViewF32(row + first, 1, count), codes.data());
    std::memcpy(packed + first, codes.data(), static_cast<size_t>(count));
    scale = codes[static_cast<size_t>(count)];
  }
  for (int64_t i = 0; i < layout.rope; ++i) {
    const uint16_t bits = FloatToBf16(row[layout.latent + i]);
    std::memcpy(packed + layout.rope_at() + 2 * i, &bits, sizeof(bits));
  }
}

float PackedLatentAt(const LatentRowLayout& layout, const std::byte* packed, int64_t index) {
  if (index < layout.latent) {
    return F8E4M3ToFloat(static_cast<uint8_t>(packed[index])) *
           F8E8M0ToFloat(static_cast<uint8_t>(packed[layout.scales_at() + index / kFp8Block]));
  }
  return LoadAsFloat(packed + layout.rope_at(), DType::kBF16, index - layout.latent);
}

int64_t CachedRowBytes(const LatentRowLayout& layout, DType cache_dtype) {
  if (cache_dtype == DType::kF8E4M3) return layout.bytes();
  return (int64_t{layout.latent} + layout.rope) * SizeOf(cache_dtype);
}

float CachedValueAt(const LatentRowLayout& layout, DType cache_dtype, const std::byte* row, int64_t index) {
  if (cache_dtype == DType::kF8E4M3) return PackedLatentAt(layout, row, index);
  return LoadAsFloat(row, cache_dtype, index);
}

}  // namespace conclave
