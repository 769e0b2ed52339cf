#include "moe/tensor/latent_row.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "moe/tensor/dtype.h"
#include "moe/tensor/mat_view.h"
#include "moe/tensor/row_format.h"

namespace conclave {
namespace {

static_assert(LatentRowLayout::kLatentBlock == kFp8Block);

constexpr auto kScaleOfNaN = std::byte{0xff};  // of ue8m0

}  // namespace

void PackLatentRow(const LatentRowLayout& layout, const float* row, std::byte* packed) {
  const int64_t latent = layout.latent;
  PackFp8(ViewF32(row, 1, latent), packed);
  std::byte* const scales = packed + layout.scales_at();
  std::memmove(scales, packed + latent, static_cast<size_t>(layout.scales()));
  for (int64_t block = 0; block < layout.scales(); ++block) {
    const float* const begin = row + block * kFp8Block;
    const float* const end = row + std::min((block + 1) * kFp8Block, latent);
    // A value that is not finite must not be mended: its sequence ends with an error (Transformer::SliceStatus).
    if (!std::all_of(begin, end, [](float value) { return std::isfinite(value); })) scales[block] = kScaleOfNaN;
  }
  for (int64_t i = 0; i < layout.rope; ++i) {
    const uint16_t bits = FloatToBf16(row[latent + i]);
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

}  // namespace conclave
