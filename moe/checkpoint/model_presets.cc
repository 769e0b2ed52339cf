// The shapes of make-model's presets.
#include "absl/strings/str_cat.h"
#include "moe/checkpoint/make_model.h"

namespace conclave {
namespace {

ModelSpec TinySpec() {
  ModelSpec spec;
  spec.vocab = 512;
  spec.hidden = 64;
  spec.layers = 4;
  spec.dense_layers_first = 1;
  spec.mtp_layers = 1;
  spec.dense_intermediate = 160;
  spec.moe_intermediate = 32;
  spec.shared_experts = 1;
  spec.context_max = 4096;
  spec.attention = {.heads = 4,
                    .q_lora_rank = 48,
                    .kv_lora_rank = 32,
                    .qk_nope_head_dim = 16,
                    .qk_rope_head_dim = 8,
                    .v_head_dim = 16};
  spec.gate.experts = 16;
  spec.gate.top_k = 4;
  spec.gate.groups = 4;
  spec.gate.groups_kept = 2;
  return spec;
}

// 1.234 G parameters, about 0.2 G active: a model for benchmarks on small machines.
ModelSpec SmallSpec() {
  ModelSpec spec;
  spec.vocab = 32000;
  spec.hidden = 1024;
  spec.layers = 12;
  spec.dense_layers_first = 1;
  spec.dense_intermediate = 2816;
  spec.moe_intermediate = 512;
  spec.shared_experts = 1;
  spec.context_max = 8192;
  spec.attention = {.heads = 16,
                    .q_lora_rank = 384,
                    .kv_lora_rank = 256,
                    .qk_nope_head_dim = 64,
                    .qk_rope_head_dim = 32,
                    .v_head_dim = 64};
  spec.gate.experts = 64;
  spec.gate.top_k = 6;
  spec.gate.groups = 8;
  spec.gate.groups_kept = 4;
  return spec;
}

// DeepSeek-V3 (technical report, section 4.2) with 3 of its 61 layers.
ModelSpec V3SliceSpec() {
  ModelSpec spec;
  spec.vocab = 129280;
  spec.hidden = 7168;
  spec.layers = 3;
  spec.dense_layers_first = 1;
  spec.dense_intermediate = 18432;
  spec.moe_intermediate = 2048;
  spec.shared_experts = 1;
  spec.context_max = 163840;
  spec.attention = {.heads = 128,
                    .q_lora_rank = 1536,
                    .kv_lora_rank = 512,
                    .qk_nope_head_dim = 128,
                    .qk_rope_head_dim = 64,
                    .v_head_dim = 128};
  spec.attention.yarn = YarnSpec{.factor = 40,
                                 .original_max_position_embeddings = 4096,
                                 .beta_fast = 32,
                                 .beta_slow = 1,
                                 .mscale = 1.0,
                                 .mscale_all_dim = 1.0};
  spec.gate.experts = 256;
  spec.gate.top_k = 8;
  spec.gate.groups = 8;
  spec.gate.groups_kept = 4;
  return spec;
}

}  // namespace

absl::StatusOr<ModelSpec> PresetSpec(absl::string_view preset) {
  ModelSpec spec;
  if (preset == "tiny") {
    spec = TinySpec();
  } else if (preset == "small") {
    spec = SmallSpec();
  } else if (preset == "v3-slice") {
    spec = V3SliceSpec();
  } else {
    return absl::InvalidArgumentError(absl::StrCat("preset: \"", preset, "\" is not one of tiny, small, v3-slice"));
  }
  spec.family = ModelFamily::kDeepSeekV3;
  spec.model_type = "deepseek_v3";
  spec.gate.score_function = ScoreFunction::kSigmoid;
  spec.gate.method = TopKMethod::kNoAuxTc;
  spec.gate.normalise_top_k = true;
  spec.gate.routed_scaling_factor = 2.5f;
  spec.gate.has_selection_bias = true;
  return spec;
}

}  // namespace conclave
