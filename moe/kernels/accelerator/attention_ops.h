// What an accelerator computes inside attention: the cache, rotations, and attention over the cache. See ops.h for the
// rules.
#ifndef CONCLAVE_MOE_KERNELS_ACCELERATOR_ATTENTION_OPS_H_
#define CONCLAVE_MOE_KERNELS_ACCELERATOR_ATTENTION_OPS_H_

#include <cstdint>

#include "moe/tensor/dtype.h"

namespace conclave {

// The angles of every position: [positions, pairs] each.
struct RopeTable {
  const float* cosines = nullptr;
  const float* sines = nullptr;
  int pairs = 0;
  bool interleaved = false;
};

// cache row of r = [rms_norm(x[r, 0 .. latent)) | x[r, latent ..) rotated to positions[r]].
struct FillCacheArgs {
  const float* x = nullptr;            // [rows, latent + 2 * rope.pairs], rows are x_stride floats apart
  const float* weight = nullptr;       // [latent]
  const int32_t* positions = nullptr;  // [rows]
  const int32_t* cache_rows = nullptr; // [rows]: the row of the cache that each one fills
  RopeTable rope;
  void* cache = nullptr;               // [tokens, latent + 2 * rope.pairs] of one layer
  DType cache_dtype = DType::kF32;     // or BF16, or F8_E4M3: rows as in moe/tensor/latent_row.h
  int64_t rows = 0, x_stride = 0;
  int latent = 0;
  float eps = 0;
};

// out[r, head, latent ..) = query[r, head, nope ..) rotated to positions[r].
struct RotateArgs {
  const void* query = nullptr;         // [rows, heads, nope + 2 * rope.pairs] of `dtype`
  const int32_t* positions = nullptr;  // [rows]
  RopeTable rope;
  void* out = nullptr;                 // [rows, heads, latent + 2 * rope.pairs] of `dtype`
  DType dtype = DType::kF32;           // or BF16
  int64_t rows = 0;
  int heads = 0, nope = 0, latent = 0;
};

// Absorbed MLA over the paged cache of one layer, in chunks of kAttentionChunkTokens merged in ascending order.
struct AttendArgs {
  const void* query = nullptr;           // [rows, heads, latent + rope] of `dtype`
  const void* cache = nullptr;           // [cache_blocks * block_tokens, latent + rope] of `cache_dtype`
  DType dtype = DType::kF32;             // or BF16: of query and out; sums and softmax are float32
  DType cache_dtype = DType::kF32;       // as `dtype`, or F8_E4M3: rows as in moe/tensor/latent_row.h
  const int32_t* lengths = nullptr;      // [rows], at least 1: row r attends to tokens [0, lengths[r]) …
  const int32_t* first_block = nullptr;  // [rows]: … of blocks[first_block[r]], blocks[first_block[r] + 1], …
  const int32_t* blocks = nullptr;
  void* out = nullptr;                   // [rows, heads, latent] of `dtype`
  int64_t rows = 0;
  int heads = 0, latent = 0, rope = 0, block_tokens = 0;
  int32_t cache_blocks = 0;
  int32_t tokens_max = 0;                // no length is larger, also when a graph runs this again
  float scale = 0;
  void* workspace = nullptr;             // AttendWorkspaceBytes(…) bytes
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_KERNELS_ACCELERATOR_ATTENTION_OPS_H_
