#include "moe/checkpoint/model_tensors.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace conclave {
namespace {

// Names and emits the tensors of one layer at a time.
class Lister {
 public:
  Lister(const ModelSpec& spec, absl::FunctionRef<void(const TensorSpec&)> visit) : spec_(spec), visit_(visit) {}

  void Outside(absl::string_view name, std::vector<int64_t> shape, TensorRole role) {
    Emit(std::string(name), std::move(shape), role, -1);
  }

  void Layer(int layer, bool mtp) {
    layer_ = layer;
    mtp_ = mtp;
    prefix_ = absl::StrCat("model.layers.", layer, ".");
    if (mtp) {
      InLayer("enorm.weight", {spec_.hidden}, TensorRole::kNorm);
      InLayer("hnorm.weight", {spec_.hidden}, TensorRole::kNorm);
      InLayer("eh_proj.weight", {spec_.hidden, 2 * int64_t{spec_.hidden}}, TensorRole::kMtpProjection);
    }
    InLayer("input_layernorm.weight", {spec_.hidden}, TensorRole::kNorm);
    Attention();
    InLayer("post_attention_layernorm.weight", {spec_.hidden}, TensorRole::kNorm);
    if (spec_.IsMoe(LayerId{layer})) {
      Moe();
    } else {
      Ffn("mlp.", spec_.dense_intermediate, TensorRole::kProjection, TensorRole::kOutProjection, -1);
    }
    if (mtp) InLayer("shared_head.norm.weight", {spec_.hidden}, TensorRole::kNorm);
    layer_ = -1;
    mtp_ = false;
  }

 private:
  void Emit(std::string name, std::vector<int64_t> shape, TensorRole role, int expert) {
    tensor_.name = std::move(name);
    tensor_.shape = std::move(shape);
    tensor_.role = role;
    tensor_.layer = layer_;
    tensor_.expert = expert;
    tensor_.mtp = mtp_;
    visit_(tensor_);
  }
  void InLayer(absl::string_view name, std::vector<int64_t> shape, TensorRole role, int expert = -1) {
    Emit(absl::StrCat(prefix_, name), std::move(shape), role, expert);
  }

  void Attention() {
    const AttentionSpec& a = spec_.attention;
    const int64_t heads = a.heads;
    if (a.q_lora_rank > 0) {
      InLayer("self_attn.q_a_proj.weight", {a.q_lora_rank, spec_.hidden}, TensorRole::kProjection);
      if (a.bias) InLayer("self_attn.q_a_proj.bias", {a.q_lora_rank}, TensorRole::kBias);
      InLayer("self_attn.q_a_layernorm.weight", {a.q_lora_rank}, TensorRole::kNorm);
      InLayer("self_attn.q_b_proj.weight", {heads * a.qk_head_dim(), a.q_lora_rank}, TensorRole::kProjection);
    } else {
      InLayer("self_attn.q_proj.weight", {heads * a.qk_head_dim(), spec_.hidden}, TensorRole::kProjection);
    }
    InLayer("self_attn.kv_a_proj_with_mqa.weight", {a.cache_width(), spec_.hidden}, TensorRole::kProjection);
    if (a.bias) InLayer("self_attn.kv_a_proj_with_mqa.bias", {a.cache_width()}, TensorRole::kBias);
    InLayer("self_attn.kv_a_layernorm.weight", {a.kv_lora_rank}, TensorRole::kNorm);
    InLayer("self_attn.kv_b_proj.weight", {heads * (a.qk_nope_head_dim + a.v_head_dim), a.kv_lora_rank},
            TensorRole::kProjection);
    InLayer("self_attn.o_proj.weight", {spec_.hidden, heads * a.v_head_dim}, TensorRole::kOutProjection);
    if (a.bias) InLayer("self_attn.o_proj.bias", {spec_.hidden}, TensorRole::kBias);
  }

  void Ffn(const std::string& name, int64_t intermediate, TensorRole role, TensorRole out_role, int expert) {
    InLayer(absl::StrCat(name, "gate_proj.weight"), {intermediate, spec_.hidden}, role, expert);
    InLayer(absl::StrCat(name, "up_proj.weight"), {intermediate, spec_.hidden}, role, expert);
    InLayer(absl::StrCat(name, "down_proj.weight"), {spec_.hidden, intermediate}, out_role, expert);
  }

  void Moe() {
    InLayer("mlp.gate.weight", {spec_.gate.experts, spec_.hidden}, TensorRole::kGate);
    if (spec_.gate.has_selection_bias) {
      InLayer("mlp.gate.e_score_correction_bias", {spec_.gate.experts}, TensorRole::kSelectionBias);
    }
    if (spec_.shared_experts > 0) {
      Ffn("mlp.shared_experts.", int64_t{spec_.moe_intermediate} * spec_.shared_experts, TensorRole::kProjection,
          TensorRole::kOutProjection, -1);
    }
    for (int expert = 0; expert < spec_.gate.experts; ++expert) {
      Ffn(absl::StrCat("mlp.experts.", expert, "."), spec_.moe_intermediate, TensorRole::kExpert,
          TensorRole::kExpertOut, expert);
    }
  }

  const ModelSpec& spec_;
  absl::FunctionRef<void(const TensorSpec&)> visit_;
  TensorSpec tensor_;
  std::string prefix_;
  int layer_ = -1;
  bool mtp_ = false;
};

}  // namespace

void ForEachTensor(const ModelSpec& spec, absl::FunctionRef<void(const TensorSpec&)> visit) {
  Lister lister(spec, visit);
  lister.Outside("model.embed_tokens.weight", {spec.vocab, spec.hidden}, TensorRole::kEmbedding);
  for (int layer = 0; layer < spec.layers; ++layer) lister.Layer(layer, /*mtp=*/false);
  lister.Outside("model.norm.weight", {spec.hidden}, TensorRole::kNorm);
  if (!spec.tie_word_embeddings) lister.Outside("lm_head.weight", {spec.vocab, spec.hidden}, TensorRole::kHead);
  for (int layer = spec.layers; layer < spec.layers + spec.mtp_layers; ++layer) lister.Layer(layer, /*mtp=*/true);
}

}  // namespace conclave
