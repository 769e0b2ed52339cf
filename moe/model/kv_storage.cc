#include "moe/model/kv_storage.h"

#include "moe/base/check.h"
#include "moe/tensor/latent_row.h"

namespace conclave {
namespace {

int64_t RowCols(const AttentionSpec& spec, DType dtype) {
  if (dtype != DType::kF8E4M3) return spec.cache_width();
  return LatentRowLayout{spec.kv_lora_rank, spec.qk_rope_head_dim}.bytes();
}

}  // namespace

int64_t KvBlockBytes(const ModelSpec& spec, DType cache_dtype, int block_tokens) {
  return int64_t{spec.layers} * block_tokens * RowCols(spec.attention, cache_dtype) * SizeOf(cache_dtype);
}

KvStorage::KvStorage(const ModelSpec& spec, DType cache_dtype, int32_t blocks, int block_tokens)
    : layers_(spec.layers),
      blocks_(blocks),
      block_tokens_(block_tokens),
      dtype_(cache_dtype),
      memory_(cache_dtype, int64_t{spec.layers} * blocks * block_tokens, RowCols(spec.attention, cache_dtype)),
      rows_(memory_.view()) {
  CONCLAVE_CHECK(IsKvBlockSize(block_tokens)) << block_tokens;
}

KvStorage::KvStorage(const ModelSpec& spec, DType cache_dtype, int32_t blocks, int block_tokens, void* memory,
                     Device device)
    : layers_(spec.layers), blocks_(blocks), block_tokens_(block_tokens), dtype_(cache_dtype) {
  CONCLAVE_CHECK(IsKvBlockSize(block_tokens)) << block_tokens;
  const int64_t cols = RowCols(spec.attention, cache_dtype);
  rows_ = {memory, cache_dtype, device, int64_t{spec.layers} * blocks * block_tokens, cols, cols};
}

MatView KvStorage::Block(LayerId layer, int32_t block) {
  CONCLAVE_CHECK(Value(layer) >= 0 && Value(layer) < layers_) << "layer " << Value(layer) << " of " << layers_;
  CONCLAVE_CHECK(block >= 0 && block < blocks_) << "block " << block << " of " << blocks_;
  return rows_.Rows((int64_t{Value(layer)} * blocks_ + block) * block_tokens_, block_tokens_);
}

}  // namespace conclave
