#include "moe/model/transformer_weights.h"

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "moe/base/status_macros.h"

namespace conclave {
namespace {

absl::StatusOr<LayerWeights> LoadLayer(const Checkpoint& checkpoint, LayerId layer) {
  const ModelSpec& spec = checkpoint.spec();
  const std::string prefix = absl::StrCat("model.layers.", Value(layer), ".");
  LayerWeights weights;
  ASSIGN_OR_RETURN(weights.attention_norm, checkpoint.Vector(prefix + "input_layernorm.weight", spec.hidden));
  ASSIGN_OR_RETURN(weights.attention, LoadMla(checkpoint, layer));
  ASSIGN_OR_RETURN(weights.ffn_norm, checkpoint.Vector(prefix + "post_attention_layernorm.weight", spec.hidden));
  if (!spec.IsMoe(layer)) {
    ASSIGN_OR_RETURN(weights.ffn, LoadFfn(checkpoint, prefix + "mlp", spec.hidden, spec.dense_intermediate));
    return weights;
  }
  ASSIGN_OR_RETURN(weights.gate, LoadGate(checkpoint, layer));
  if (spec.shared_experts > 0) {
    ASSIGN_OR_RETURN(weights.ffn, LoadFfn(checkpoint, prefix + "mlp.shared_experts", spec.hidden,
                                          spec.moe_intermediate * spec.shared_experts));
  }
  return weights;
}

}  // namespace

absl::StatusOr<TransformerWeights> LoadTransformer(const Checkpoint& checkpoint) {
  const ModelSpec& spec = checkpoint.spec();
  TransformerWeights weights;
  ASSIGN_OR_RETURN(weights.embedding, checkpoint.Weight("model.embed_tokens.weight", spec.vocab, spec.hidden));
  for (int layer = 0; layer < spec.layers; ++layer) {
    ASSIGN_OR_RETURN(LayerWeights loaded, LoadLayer(checkpoint, LayerId{layer}));
    weights.layers.push_back(std::move(loaded));
  }
  ASSIGN_OR_RETURN(weights.norm, checkpoint.Vector("model.norm.weight", spec.hidden));
  if (spec.tie_word_embeddings) {
    weights.head = weights.embedding;
    return weights;
  }
  ASSIGN_OR_RETURN(weights.head, checkpoint.Weight("lm_head.weight", spec.vocab, spec.hidden));
  return weights;
}

void WidenRow(const WeightView& weight, int64_t row, float* out) {
  for (int64_t col = 0; col < weight.cols(); ++col)
    out[col] = StoredValue(weight, row, col) * ScaleOf(weight, row, col);
}

}  // namespace conclave
