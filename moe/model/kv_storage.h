// The paged latent KV cache's memory: one row of kv_lora_rank + qk_rope_head_dim values per token and layer, never
// expanded keys or values (DeepSeek-V2, section 2.1). Who owns which block is decided in router_service/kv_cache.
#ifndef CONCLAVE_MOE_MODEL_KV_STORAGE_H_
#define CONCLAVE_MOE_MODEL_KV_STORAGE_H_

#include <cstdint>

#include "moe/base/ids.h"
#include "moe/checkpoint/model_spec.h"
#include "moe/tensor/buffer.h"

namespace conclave {

// Tokens in one block: what suits a CPU, where equal prefixes are found in steps of so many tokens, and what kernels on
// a GPU read fastest. No bit of a row depends on it.
inline constexpr int kKvBlockTokens = 16;
inline constexpr int kDeviceKvBlockTokens = 64;
// The sizes that there are: they divide kAttentionChunkTokens, so that chunks never straddle a block.
constexpr bool IsKvBlockSize(int tokens) { return tokens == 16 || tokens == 32 || tokens == 64; }

// Bytes that one block takes over all layers. Of F8_E4M3 are rows as in moe/tensor/latent_row.h.
int64_t KvBlockBytes(const ModelSpec& spec, DType cache_dtype, int block_tokens);

// Allocated once. Used by the engine's thread.
class KvStorage {
 public:
  // REQUIRES: IsKvBlockSize(block_tokens)
  KvStorage(const ModelSpec& spec, DType cache_dtype, int32_t blocks, int block_tokens);
  // Over memory of another device that somebody else owns: blocks * KvBlockBytes(spec, cache_dtype, block_tokens).
  KvStorage(const ModelSpec& spec, DType cache_dtype, int32_t blocks, int block_tokens, void* memory, Device device);

  int32_t blocks() const { return blocks_; }
  int block_tokens() const { return block_tokens_; }
  DType dtype() const { return dtype_; }
  // Block `block` of layer `layer`: [block_tokens(), cache_width] of dtype(), or with F8_E4M3 [.., bytes of a row].
  MatView Block(LayerId layer, int32_t block);

 private:
  int layers_;
  int32_t blocks_;
  int block_tokens_;
  DType dtype_;
  MatBuffer memory_;  // the rows, where they are ours
  MatView rows_;      // [layers * blocks * block_tokens, cache_width or bytes of a row]
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_MODEL_KV_STORAGE_H_
