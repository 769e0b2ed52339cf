// One description of every supported model, read from config.json by model_config.h and used everywhere else.
#ifndef CONCLAVE_MOE_CHECKPOINT_MODEL_SPEC_H_
#define CONCLAVE_MOE_CHECKPOINT_MODEL_SPEC_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "moe/base/ids.h"

namespace conclave {

// The published families; R1, V3.1 and Moonlight are of V3's.
enum class ModelFamily { kDeepSeekV2, kDeepSeekV3, kKimiK2 };

// How router logits become scores (DeepSeek-V2, section 2.1.2; DeepSeek-V3, section 2.1.2).
enum class ScoreFunction { kSoftmax, kSigmoid };
// How experts are chosen from scores: plain top-k; the best groups by their largest score; the best groups by
// the sum of their two largest biased scores ("noaux_tc").
enum class TopKMethod { kGreedy, kGroupLimitedGreedy, kNoAuxTc };

// YaRN (Peng et al. 2023), as DeepSeek's modeling code applies it.
struct YarnSpec {
  double factor = 1.0;
  double original_max_position_embeddings = 4096;
  double beta_fast = 32;
  double beta_slow = 1;
  double mscale = 1.0;
  double mscale_all_dim = 0.0;
  bool operator==(const YarnSpec&) const = default;
};

// How a MoE layer chooses experts (moe/model's gate applies it).
struct GateSpec {
  ScoreFunction score_function = ScoreFunction::kSigmoid;
  TopKMethod method = TopKMethod::kNoAuxTc;
  int experts = 0;
  int top_k = 0;
  int groups = 1;
  int groups_kept = 1;
  bool normalise_top_k = true;
  float routed_scaling_factor = 1.0f;
  bool has_selection_bias = false;  // mlp.gate.e_score_correction_bias, only ever used to select
  bool operator==(const GateSpec&) const = default;
};

// Multi-head latent attention (DeepSeek-V2, section 2.1) and its RoPE. Sizes are in elements.
struct AttentionSpec {
  int heads = 0;
  int q_lora_rank = 0;  // 0: q_proj maps hidden to queries directly
  int kv_lora_rank = 0;
  int qk_nope_head_dim = 0;
  int qk_rope_head_dim = 0;
  int v_head_dim = 0;
  bool bias = false;  // q_a_proj, kv_a_proj_with_mqa and o_proj carry biases
  bool rope_interleaved = true;
  double rope_theta = 10000.0;
  std::optional<YarnSpec> yarn;
  // One cached row per token and layer: the normalised latent, then the rotated shared key.
  int cache_width() const { return kv_lora_rank + qk_rope_head_dim; }
  int qk_head_dim() const { return qk_nope_head_dim + qk_rope_head_dim; }
  bool operator==(const AttentionSpec&) const = default;
};

// Weights stored as e4m3 with one scale per block of rows x cols ("weight_scale_inv"); 0 x 0: not quantised.
struct BlockQuantSpec {
  int block_rows = 0;
  int block_cols = 0;
  bool ue8m0_scales = false;  // scale_fmt: scales are powers of two, stored as F32 or as F8_E8M0 (or U8) exponents
  bool present() const { return block_rows > 0; }
  bool operator==(const BlockQuantSpec&) const = default;
};

// Matrices stored as symmetric integers, packed into 32-bit words, with a scale per row and group of columns
// (compressed-tensors, "pack-quantized"): "weight_packed", "weight_scale" and "weight_shape" in place of "weight".
// Which matrices are, the files say. 0 bits: none.
struct PackedQuantSpec {
  int bits = 0;        // 4 or 8
  int group_cols = 0;  // 0: one scale a row
  bool present() const { return bits > 0; }
  bool operator==(const PackedQuantSpec&) const = default;
};

// The whole model. Sizes are in elements, counts as named.
struct ModelSpec {
  ModelFamily family = ModelFamily::kDeepSeekV3;
  std::string model_type;  // as config.json spells it
  int vocab = 0;
  int hidden = 0;
  int layers = 0;              // decoder layers; the MTP layers behind them are not counted
  int dense_layers_first = 0;  // first_k_dense_replace
  int moe_layer_freq = 1;
  int mtp_layers = 0;  // num_nextn_predict_layers, recognised and kept aside
  int dense_intermediate = 0;
  int moe_intermediate = 0;
  int shared_experts = 0;  // stored as one FFN of moe_intermediate * shared_experts
  int context_max = 0;     // max_position_embeddings
  float rms_norm_eps = 1e-6f;
  bool tie_word_embeddings = false;
  AttentionSpec attention;
  GateSpec gate;
  BlockQuantSpec block_quant;    // one of these two at the most
  PackedQuantSpec packed_quant;
  std::optional<int32_t> bos_id;
  std::vector<int32_t> eos_ids;  // config.json and generation_config.json together, ascending, no duplicates

  // Whether layer `layer` routes to experts (else its FFN is dense).
  bool IsMoe(LayerId layer) const {
    return gate.experts > 0 && Value(layer) >= dense_layers_first && Value(layer) % moe_layer_freq == 0;
  }
  int moe_layers() const {
    int count = 0;
    for (int layer = 0; layer < layers; ++layer) count += IsMoe(LayerId{layer});
    return count;
  }
  bool operator==(const ModelSpec&) const = default;
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_CHECKPOINT_MODEL_SPEC_H_
