// Everything of a model that the attention service computes with: all tensors but the routed experts'.
#ifndef CONCLAVE_MOE_MODEL_TRANSFORMER_WEIGHTS_H_
#define CONCLAVE_MOE_MODEL_TRANSFORMER_WEIGHTS_H_

#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "moe/checkpoint/checkpoint.h"
#include "moe/model/expert_ffn.h"
#include "moe/model/gate.h"
#include "moe/model/mla_attention.h"
#include "moe/tensor/weight_view.h"

namespace conclave {

// One decoder layer: norm → attention → residual → norm → FFN → residual.
struct LayerWeights {
  std::vector<float> attention_norm;  // [hidden]: input_layernorm
  MlaWeights attention;
  std::vector<float> ffn_norm;      // [hidden]: post_attention_layernorm
  std::optional<GateWeights> gate;  // of an MoE layer
  std::optional<FfnWeights> ffn;    // a dense layer's FFN, or the shared expert; an MoE layer may have none
};

// Views into a checkpoint, which must outlive them.
struct TransformerWeights {
  WeightView embedding;  // [vocab, hidden]
  std::vector<LayerWeights> layers;
  std::vector<float> norm;  // [hidden]
  WeightView head;          // [vocab, hidden]; the embedding where they are tied
};

// Resolves and checks every tensor; touches the pages of norms and biases only. Layers behind spec.layers (the MTP
// modules) are left alone. NOT_FOUND / DATA_LOSS as Checkpoint::Weight.
absl::StatusOr<TransformerWeights> LoadTransformer(const Checkpoint& checkpoint);

// Widens row `row` of `weight`, of any stored dtype, to float32: out [cols].
void WidenRow(const WeightView& weight, int64_t row, float* out);

}  // namespace conclave

#endif  // CONCLAVE_MOE_MODEL_TRANSFORMER_WEIGHTS_H_
