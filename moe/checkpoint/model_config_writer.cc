// The writing half of model_config.h: a ModelSpec back into the published spelling. The keys are few and fixed, and
// all strings are our own, so that plain concatenation does.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "moe/checkpoint/model_config.h"

namespace conclave {
namespace {

// The shortest decimal that reads back as the same value, with a point: 2.5, and for a float 2.446 rather than
// 2.44600009.
std::string Real(double value, bool is_float) {
  char text[40];
  for (int digits = 1; digits <= 17; ++digits) {
    std::snprintf(text, sizeof(text), "%.*g", digits, value);
    if (is_float ? std::strtof(text, nullptr) == static_cast<float>(value) : std::strtod(text, nullptr) == value) break;
  }
  const std::string shortest(text);
  return shortest.find_first_of(".en") == std::string::npos ? shortest + ".0" : shortest;
}

std::string Text(absl::string_view text) { return absl::StrCat("\"", text, "\""); }
std::string Bool(bool value) { return value ? "true" : "false"; }

// Collects the fields of one object.
class Object {
 public:
  void Add(absl::string_view name, absl::string_view json) { fields_.push_back(absl::StrCat(Text(name), ": ", json)); }
  void Add(absl::string_view name, int64_t value) { fields_.push_back(absl::StrCat(Text(name), ": ", value)); }
  std::string Format(absl::string_view indent) const {
    const std::string separator = absl::StrCat(",\n", indent, "  ");
    return absl::StrCat("{\n", indent, "  ", absl::StrJoin(fields_, separator), "\n", indent, "}");
  }

 private:
  std::vector<std::string> fields_;
};

const char* MethodName(TopKMethod method) {
  switch (method) {
    case TopKMethod::kGreedy:
      return "greedy";
    case TopKMethod::kGroupLimitedGreedy:
      return "group_limited_greedy";
    case TopKMethod::kNoAuxTc:
      return "noaux_tc";
  }
  return "";
}

std::string RopeScaling(const AttentionSpec& attention) {
  if (!attention.yarn.has_value()) return "null";
  Object yarn;
  yarn.Add("type", Text("yarn"));
  yarn.Add("factor", Real(attention.yarn->factor, false));
  yarn.Add("original_max_position_embeddings", Real(attention.yarn->original_max_position_embeddings, false));
  yarn.Add("beta_fast", Real(attention.yarn->beta_fast, false));
  yarn.Add("beta_slow", Real(attention.yarn->beta_slow, false));
  yarn.Add("mscale", Real(attention.yarn->mscale, false));
  yarn.Add("mscale_all_dim", Real(attention.yarn->mscale_all_dim, false));
  return yarn.Format("  ");
}

std::string Quantization(const BlockQuantSpec& quant) {
  Object config;
  config.Add("activation_scheme", Text("dynamic"));
  config.Add("fmt", Text("e4m3"));
  config.Add("quant_method", Text("fp8"));
  if (quant.ue8m0_scales) config.Add("scale_fmt", Text("ue8m0"));
  config.Add("weight_block_size", absl::StrCat("[", quant.block_rows, ", ", quant.block_cols, "]"));
  return config.Format("  ");
}

// As Kimi-K2-Thinking's config.json has it.
std::string PackedQuantization(const PackedQuantSpec& quant, const std::vector<std::string>& ignored) {
  Object weights;
  weights.Add("actorder", "null");
  weights.Add("block_structure", "null");
  weights.Add("dynamic", "false");
  weights.Add("group_size", quant.group_cols > 0 ? absl::StrCat(quant.group_cols) : "null");
  weights.Add("num_bits", quant.bits);
  weights.Add("observer", Text("minmax"));
  weights.Add("observer_kwargs", "{}");
  weights.Add("strategy", Text(quant.group_cols > 0 ? "group" : "channel"));
  weights.Add("symmetric", "true");
  weights.Add("type", Text("int"));
  Object group;
  group.Add("input_activations", "null");
  group.Add("output_activations", "null");
  group.Add("targets", absl::StrCat("[", Text("Linear"), "]"));
  group.Add("weights", weights.Format("        "));
  Object groups;
  groups.Add("group_0", group.Format("      "));
  std::vector<std::string> names;
  for (const std::string& name : ignored) names.push_back(Text(name));
  Object config;
  config.Add("config_groups", groups.Format("    "));
  config.Add("format", Text("pack-quantized"));
  config.Add("ignore", absl::StrCat("[", absl::StrJoin(names, ", "), "]"));
  config.Add("kv_cache_scheme", "null");
  config.Add("quant_method", Text("compressed-tensors"));
  config.Add("quantization_status", Text("compressed"));
  return config.Format("  ");
}

void AddShapes(const ModelSpec& spec, Object& config) {
  config.Add("vocab_size", spec.vocab);
  config.Add("hidden_size", spec.hidden);
  config.Add("intermediate_size", spec.dense_intermediate);
  config.Add("moe_intermediate_size", spec.moe_intermediate);
  config.Add("num_hidden_layers", spec.layers);
  config.Add("num_nextn_predict_layers", spec.mtp_layers);
  config.Add("first_k_dense_replace", spec.dense_layers_first);
  config.Add("moe_layer_freq", spec.moe_layer_freq);
  config.Add("n_shared_experts", spec.shared_experts);
  config.Add("max_position_embeddings", spec.context_max);
  config.Add("rms_norm_eps", Real(spec.rms_norm_eps, true));
  config.Add("hidden_act", Text("silu"));
  config.Add("tie_word_embeddings", Bool(spec.tie_word_embeddings));
}

void AddGate(const GateSpec& gate, Object& config) {
  config.Add("n_routed_experts", gate.experts);
  config.Add("num_experts_per_tok", gate.top_k);
  config.Add("n_group", gate.groups);
  config.Add("topk_group", gate.groups_kept);
  config.Add("scoring_func", Text(gate.score_function == ScoreFunction::kSoftmax ? "softmax" : "sigmoid"));
  config.Add("topk_method", Text(MethodName(gate.method)));
  config.Add("norm_topk_prob", Bool(gate.normalise_top_k));
  config.Add("routed_scaling_factor", Real(gate.routed_scaling_factor, true));
}

void AddAttention(const AttentionSpec& attention, Object& config) {
  config.Add("num_attention_heads", attention.heads);
  config.Add("num_key_value_heads", attention.heads);
  config.Add("q_lora_rank", attention.q_lora_rank > 0 ? absl::StrCat(attention.q_lora_rank) : "null");
  config.Add("kv_lora_rank", attention.kv_lora_rank);
  config.Add("qk_nope_head_dim", attention.qk_nope_head_dim);
  config.Add("qk_rope_head_dim", attention.qk_rope_head_dim);
  config.Add("v_head_dim", attention.v_head_dim);
  config.Add("attention_bias", Bool(attention.bias));
  config.Add("attention_dropout", "0.0");
  config.Add("rope_theta", Real(attention.rope_theta, false));
  config.Add("rope_scaling", RopeScaling(attention));
  config.Add("rope_interleave", Bool(attention.rope_interleaved));
}

}  // namespace

std::string WriteQuantizationConfig(const ModelSpec& spec, const std::vector<std::string>& ignored) {
  if (spec.packed_quant.present()) return PackedQuantization(spec.packed_quant, ignored);
  return Quantization(spec.block_quant);
}

std::string WriteModelConfig(const ModelSpec& spec, absl::string_view torch_dtype) {
  Object config;
  const bool v2 = spec.family == ModelFamily::kDeepSeekV2;
  config.Add("architectures", absl::StrCat("[", Text(v2 ? "DeepseekV2ForCausalLM" : "DeepseekV3ForCausalLM"), "]"));
  config.Add("model_type", Text(spec.model_type));
  AddShapes(spec, config);
  AddGate(spec.gate, config);
  AddAttention(spec.attention, config);
  config.Add("torch_dtype", Text(torch_dtype));
  if (spec.bos_id.has_value()) config.Add("bos_token_id", *spec.bos_id);
  if (spec.eos_ids.size() == 1) config.Add("eos_token_id", spec.eos_ids[0]);
  if (spec.eos_ids.size() > 1) config.Add("eos_token_id", absl::StrCat("[", absl::StrJoin(spec.eos_ids, ", "), "]"));
  if (spec.block_quant.present() || spec.packed_quant.present()) {
    config.Add("quantization_config", WriteQuantizationConfig(spec, {}));
  }
  return config.Format("") + "\n";
}

}  // namespace conclave
