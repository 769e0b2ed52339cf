// The paged latent KV cache's memory: one row of kv_lora_rank + qk_rope_head_dim values per token and layer, never
// expanded keys or values (DeepSeek-V2, section 2.1). Who owns which block is decided in router_service/kv_cache.
#ifndef CONCLAVE_MOE_MODEL_KV_STORAGE_H_
#define CONCLAVE_MOE_MODEL_KV_STORAGE_H_

#include <cstdint>

#include "moe/base/ids.h"
#include "moe/checkpoint/model_spec.h"
#include "moe/tensor/buffer.h"

namespace conclave {

// Tokens in one block. Divides kAttentionChunkTokens, so that chunks never straddle a block.
inline constexpr int kKvBlockTokens = 16;

// Bytes that one block takes over all layers. Of F8_E4M3 are rows as in moe/tensor/latent_row.h.
int64_t KvBlockBytes(const ModelSpec& spec, DType cache_dtype);

// Allocated once. Used by the engine's thread.
class KvStorage {
 public:
  KvStorage(const ModelSpec& spec, DType cache_dtype, int32_t blocks);
  // Over memory of another device that somebody else owns: blocks * KvBlockBytes(spec, cache_dtype).
  KvStorage(const ModelSpec& spec, DType cache_dtype, int32_t blocks, void* memory, Device device);

  int32_t blocks() const { return blocks_; }
  DType dtype() const { return dtype_; }
  // Block `block` of layer `layer`: [kKvBlockTokens, cache_width] of dtype(), or with F8_E4M3 [.., bytes of a row].
  MatView Block(LayerId layer, int32_t block);

 private:
  int layers_;
  int32_t blocks_;
  DType dtype_;
  MatBuffer memory_;  // the rows, where they are ours
  MatView rows_;      // [layers * blocks * kKvBlockTokens, cache_width or bytes of a row]
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_MODEL_KV_STORAGE_H_
