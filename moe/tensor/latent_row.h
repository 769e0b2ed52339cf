// A row of the latent KV cache in eight bits a value: what DType::kF8E4M3 means for a cache.
#ifndef CONCLAVE_MOE_TENSOR_LATENT_ROW_H_
#define CONCLAVE_MOE_TENSOR_LATENT_ROW_H_

#include <cstddef>
#include <cstdint>

#include "moe/tensor/dtype.h"

namespace conclave {

// Where the parts of a packed row begin: e4m3 codes of the latent, one ue8m0 scale for each kLatentBlock of them, and
// the rotated key in BF16, which carries positions and stands eight bits badly (FlashMLA keeps it so, too). Each part
// begins at a multiple of 16 bytes, and so does the next row. DeepSeek-V3's 512 + 64 values take 656 bytes instead of
// 1,152 in BF16 and 2,304 in F32.
struct LatentRowLayout {
  int latent = 0;
  int rope = 0;

  static constexpr int kLatentBlock = 128;
  constexpr int64_t scales() const { return (latent + kLatentBlock - 1) / kLatentBlock; }
  constexpr int64_t scales_at() const { return Padded(latent); }
  constexpr int64_t rope_at() const { return scales_at() + Padded(scales()); }
  constexpr int64_t bytes() const { return rope_at() + Padded(int64_t{rope} * 2); }

 private:
  static constexpr int64_t Padded(int64_t bytes) { return (bytes + 15) / 16 * 16; }
};

// row [latent + rope] → layout.bytes() at `packed`. Latents are rounded once, to nearest, ties to even, by the smallest
// power of two that fits a block's largest magnitude. Values that are not finite stay so, or make NaN.
void PackLatentRow(const LatentRowLayout& layout, const float* row, std::byte* packed);
// Value `index` of latent | rope.
float PackedLatentAt(const LatentRowLayout& layout, const std::byte* packed, int64_t index);

// A row of a cache of any dtype: its bytes, and value `index` of latent | rope.
int64_t CachedRowBytes(const LatentRowLayout& layout, DType cache_dtype);
float CachedValueAt(const LatentRowLayout& layout, DType cache_dtype, const std::byte* row, int64_t index);

}  // namespace conclave

#endif  // CONCLAVE_MOE_TENSOR_LATENT_ROW_H_
