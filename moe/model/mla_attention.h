// Multi-head latent attention (DeepSeek-V2, section 2.1) in absorbed form, for prefill and decode alike: queries are
// carried into the latent space by W_UK, scored against the cached latents themselves, and the weighted sum of latents
// is carried out by W_UV. Keys and values are never expanded.
#ifndef CONCLAVE_MOE_MODEL_MLA_ATTENTION_H_
#define CONCLAVE_MOE_MODEL_MLA_ATTENTION_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "moe/base/ids.h"
#include "moe/base/thread_pool.h"
#include "moe/checkpoint/checkpoint.h"
#include "moe/kernels/kernels.h"
#include "moe/model/kv_storage.h"
#include "moe/model/linears.h"
#include "moe/model/rope.h"
#include "moe/tensor/buffer.h"
#include "moe/tensor/weight_view.h"

namespace conclave {

// One layer's tensors: views into a checkpoint, and what little had to be rearranged.
struct MlaWeights {
  WeightView q_a;                    // [q_lora_rank, hidden]; unused where q_lora_rank is 0
  std::vector<float> q_a_bias;       // [q_lora_rank] or empty
  std::vector<float> q_a_norm;       // [q_lora_rank] or empty
  WeightView q;                      // q_b_proj [heads * qk_head_dim, q_lora_rank], or q_proj [.., hidden]
  WeightView kv_a;                   // [kv_lora_rank + rope, hidden]
  std::vector<float> kv_a_bias;      // [kv_lora_rank + rope] or empty
  std::vector<float> kv_a_norm;      // [kv_lora_rank]
  std::vector<WeightView> key_up;    // per head, W_UK: [qk_nope_head_dim, kv_lora_rank]
  std::vector<WeightView> value_up;  // per head, W_UV: [v_head_dim, kv_lora_rank]
  WeightView o;                      // [hidden, heads * v_head_dim]
  std::vector<float> o_bias;         // [hidden] or empty
  MatBuffer kv_b_scales;             // owned copy of kv_b_proj's scales where heads straddle scale blocks
};
// model.layers.<layer>.self_attn.*. Errors as Checkpoint::Weight.
absl::StatusOr<MlaWeights> LoadMla(const Checkpoint& checkpoint, LayerId layer);

// Where the rows of a step stand. Row i is at positions[i] of its sequence, whose blocks are
// blocks[first_block[i]], blocks[first_block[i] + 1], … in order.
struct AttentionRows {
  absl::Span<const int32_t> positions;    // [rows]
  absl::Span<const int64_t> first_block;  // [rows]
  absl::Span<const int32_t> blocks;       // of all sequences of the step, one after the other
};

// Owns the scratch that all layers share; used by one thread, which fans out over `threads`.
class MlaAttention {
 public:
  // `kernels` are DenseKernels(...).
  MlaAttention(const ModelSpec& spec, const Kernels& kernels, ThreadPool& threads, int rows_max);

  // out = o_proj(attention(x)). x, out: [rows, hidden] F32. Writes the rows' latents into the cache first, then
  // attends to positions [0, positions[i]] of each row's own sequence.
  void Run(const MlaWeights& weights, LayerId layer, ConstMatView x, const Rope& rope, const AttentionRows& rows,
           KvStorage& kv, MatView out);

 private:
  void ProjectQueries(const MlaWeights& weights, ConstMatView x);
  void FillCache(const MlaWeights& weights, LayerId layer, const Rope& rope, const AttentionRows& rows, KvStorage& kv,
                 int64_t count);
  void AttendTile(const MlaWeights& weights, const Rope& rope, const AttentionRows& rows, const KvStorage& kv,
                  int64_t begin, int64_t count);
  void AbsorbQueries(const MlaWeights& weights, const Rope& rope, int64_t begin, int64_t count);
  void Attend(const AttentionRows& rows, const KvStorage& kv, int64_t begin, int64_t count);

  const AttentionSpec spec_;
  const Kernels& kernels_;
  ThreadPool& threads_;
  float scale_;
  RowPacker packer_;
  MatBuffer q_latent_;              // [rows_max, q_lora_rank] F32
  MatBuffer query_;                 // [rows_max, heads * qk_head_dim] F32
  MatBuffer latent_;                // [rows_max, kv_lora_rank + rope] F32
  MatBuffer absorbed_;              // [tile, heads * (kv_lora_rank + rope)] F32
  MatBuffer mixed_;                 // [tile, heads * kv_lora_rank] F32: weighted sums of latents
  MatBuffer value_;                 // [rows_max, heads * v_head_dim] F32
  MatBuffer scratch_;               // [threads, MlaScratchFloats] F32
  std::vector<const void*> pages_;  // of the current layer, parallel to AttentionRows::blocks; grows to its largest
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_MODEL_MLA_ATTENTION_H_
