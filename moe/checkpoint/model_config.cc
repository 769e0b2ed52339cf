#include "moe/checkpoint/model_config.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "moe/base/limits.h"
#include "moe/base/status_macros.h"
#include "moe/checkpoint/json_fields.h"
#include "moe/checkpoint/model_config_parts.h"
#include "moe/checkpoint/strict_json.h"
#include "nlohmann/json.hpp"

namespace conclave {
namespace {

using nlohmann::json;

constexpr int kHeadDimMax = 8192;
constexpr int kMtpLayersMax = 64;

std::string Quoted(absl::string_view text) { return absl::StrCat("\"", absl::CHexEscape(text.substr(0, 100)), "\""); }

absl::StatusOr<json> ParseObject(absl::string_view text, absl::string_view file) {
  if (static_cast<int64_t>(text.size()) > limits::kConfigFileBytesMax) {
    return absl::InvalidArgumentError(absl::StrCat(file, " has more than ", limits::kConfigFileBytesMax, " bytes"));
  }
  const absl::Status strict = CheckStrictJson(text);
  if (!strict.ok()) return absl::InvalidArgumentError(absl::StrCat(file, ": ", strict.message()));
  json root = json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
  if (!root.is_object()) return absl::InvalidArgumentError(absl::StrCat(file, ": must be a JSON object"));
  return root;
}

void ParseFamily(JsonFields& fields, ModelSpec& spec) {
  constexpr absl::string_view kSupported = "supported are deepseek_v2, deepseek_v3 and kimi_k2";
  spec.model_type = fields.StringOr("model_type", "");
  if (spec.model_type == "deepseek_v2") {
    spec.family = ModelFamily::kDeepSeekV2;
  } else if (spec.model_type == "deepseek_v3") {
    spec.family = ModelFamily::kDeepSeekV3;
  } else if (spec.model_type == "kimi_k2") {
    spec.family = ModelFamily::kKimiK2;
  } else if (spec.model_type.empty()) {
    fields.Fail("model_type", absl::StrCat("is missing; ", kSupported));
  } else {
    fields.Fail("model_type", absl::StrCat(Quoted(spec.model_type), " is not supported; ", kSupported));
  }
}

void ParseShapes(JsonFields& fields, ModelSpec& spec) {
  spec.vocab = fields.Int("vocab_size", 1, limits::kVocabMax);
  spec.hidden = fields.Int("hidden_size", 1, limits::kHiddenMax);
  spec.layers = fields.Int("num_hidden_layers", 1, limits::kLayersMax);
  spec.dense_layers_first = fields.IntOr("first_k_dense_replace", 0, limits::kLayersMax, 0);
  spec.moe_layer_freq = fields.IntOr("moe_layer_freq", 1, limits::kLayersMax, 1);
  spec.mtp_layers = fields.IntOr("num_nextn_predict_layers", 0, kMtpLayersMax, 0);
  spec.moe_intermediate = fields.Int("moe_intermediate_size", 1, limits::kIntermediateMax);
  spec.shared_experts = fields.IntOr("n_shared_experts", 0, limits::kExpertsPerLayerMax, 0);
  spec.context_max = fields.Int("max_position_embeddings", 1, limits::kContextMax);
  spec.rms_norm_eps = static_cast<float>(fields.NumberOr("rms_norm_eps", 0.0, 1.0, 1e-6));
  spec.tie_word_embeddings = fields.BoolOr("tie_word_embeddings", false);
  if (int64_t{spec.moe_intermediate} * spec.shared_experts > limits::kIntermediateMax) {
    fields.Fail("n_shared_experts", absl::StrCat("times moe_intermediate_size is beyond ", limits::kIntermediateMax));
  }
  if (spec.dense_layers_first >= spec.layers) {
    fields.Fail("first_k_dense_replace",
                absl::StrCat("is ", spec.dense_layers_first, ", which leaves no MoE layer of ", spec.layers));
  }
  const bool any_dense = spec.dense_layers_first > 0 || spec.moe_layer_freq > 1;
  spec.dense_intermediate = any_dense ? fields.Int("intermediate_size", 1, limits::kIntermediateMax)
                                      : fields.IntOr("intermediate_size", 0, limits::kIntermediateMax, 0);
  const std::string activation = fields.StringOr("hidden_act", "silu");
  if (activation != "silu") {
    fields.Fail("hidden_act", absl::StrCat(Quoted(activation), " is not supported; only silu is"));
  }
  if (fields.BoolOr("mlp_bias", false)) fields.Fail("mlp_bias", "is true, which is not supported");
}

void ParseAttention(JsonFields& fields, AttentionSpec& attention) {
  attention.heads = fields.Int("num_attention_heads", 1, limits::kHeadsMax);
  if (fields.Has("q_lora_rank")) attention.q_lora_rank = fields.Int("q_lora_rank", 1, limits::kHiddenMax);
  attention.kv_lora_rank = fields.Int("kv_lora_rank", 1, limits::kHiddenMax);
  attention.qk_nope_head_dim = fields.Int("qk_nope_head_dim", 1, kHeadDimMax);
  attention.qk_rope_head_dim = fields.Int("qk_rope_head_dim", 2, kHeadDimMax);
  attention.v_head_dim = fields.Int("v_head_dim", 1, kHeadDimMax);
  attention.bias = fields.BoolOr("attention_bias", false);
  attention.rope_interleaved = fields.BoolOr("rope_interleave", true);
  if (attention.qk_rope_head_dim % 2 != 0) fields.Fail("qk_rope_head_dim", "is odd; RoPE turns pairs");
}

void ParseGateMethod(JsonFields& fields, const ModelSpec& spec, GateSpec& gate) {
  const bool v2 = spec.family == ModelFamily::kDeepSeekV2;
  const std::string scoring = fields.StringOr("scoring_func", v2 ? "softmax" : "sigmoid");
  if (scoring == "softmax") {
    gate.score_function = ScoreFunction::kSoftmax;
  } else if (scoring == "sigmoid") {
    gate.score_function = ScoreFunction::kSigmoid;
  } else {
    fields.Fail("scoring_func", absl::StrCat(Quoted(scoring), " is not supported; softmax and sigmoid are"));
  }
  const std::string method = fields.StringOr("topk_method", v2 ? "greedy" : "noaux_tc");
  if (method == "greedy") {
    gate.method = TopKMethod::kGreedy;
  } else if (method == "group_limited_greedy") {
    gate.method = TopKMethod::kGroupLimitedGreedy;
  } else if (method == "noaux_tc") {
    gate.method = TopKMethod::kNoAuxTc;
  } else {
    fields.Fail("topk_method",
                absl::StrCat(Quoted(method), " is not supported; greedy, group_limited_greedy and noaux_tc are"));
  }
  gate.has_selection_bias = gate.method == TopKMethod::kNoAuxTc;
}

void ParseGate(JsonFields& fields, const ModelSpec& spec, GateSpec& gate) {
  const bool v2 = spec.family == ModelFamily::kDeepSeekV2;
  ParseGateMethod(fields, spec, gate);
  gate.experts = fields.Int("n_routed_experts", 1, limits::kExpertsPerLayerMax);
  gate.top_k = fields.Int("num_experts_per_tok", 1, limits::kTopKMax);
  gate.normalise_top_k = fields.BoolOr("norm_topk_prob", !v2);
  if (v2 && gate.score_function == ScoreFunction::kSoftmax) gate.normalise_top_k = false;
  gate.routed_scaling_factor = static_cast<float>(fields.NumberOr("routed_scaling_factor", 1e-6, 1e6, v2 ? 1.0 : 2.5));
  if (gate.top_k > gate.experts) {
    fields.Fail("num_experts_per_tok", absl::StrCat("is ", gate.top_k, " of n_routed_experts ", gate.experts));
  }
  if (gate.method == TopKMethod::kGreedy) return;  // it looks at no groups, whatever n_group says
  gate.groups = fields.Int("n_group", 1, limits::kExpertsPerLayerMax);
  gate.groups_kept = fields.Int("topk_group", 1, limits::kExpertsPerLayerMax);
  if (!fields.status().ok()) return;
  if (gate.experts % gate.groups != 0) {
    return fields.Fail("n_routed_experts",
                       absl::StrCat("is ", gate.experts, ", not divisible by n_group ", gate.groups));
  }
  const int group_experts = gate.experts / gate.groups;
  if (gate.groups_kept > gate.groups) {
    return fields.Fail("topk_group", absl::StrCat("is ", gate.groups_kept, " of n_group ", gate.groups));
  }
  if (gate.top_k > gate.groups_kept * group_experts) {
    return fields.Fail("num_experts_per_tok",
                       absl::StrCat("is ", gate.top_k, ", but topk_group ", gate.groups_kept, " groups of ",
                                    group_experts, " leave ", gate.groups_kept * group_experts, " experts"));
  }
  if (gate.method == TopKMethod::kNoAuxTc && gate.groups > 1 && group_experts < 2) {
    fields.Fail("n_group", "leaves one expert a group; noaux_tc ranks groups by their two best");
  }
}

// Adds the ids of an integer or a list of integers.
void AddTokenIds(JsonFields& fields, const std::string& name, int vocab, std::vector<int32_t>& ids) {
  const json* field = fields.Find(name);
  if (field == nullptr) return;
  const json list = field->is_array() ? *field : json::array({*field});
  for (const json& id : list) {
    if (!id.is_number_integer()) return fields.Fail(name, "must be a token id or a list of them");
    if (id.is_number_unsigned() ? id.get<uint64_t>() >= static_cast<uint64_t>(vocab) : true) {
      return fields.Fail(name, absl::StrCat(id.dump(), " is not below vocab_size ", vocab, " or is negative"));
    }
    ids.push_back(id.get<int32_t>());
  }
}

void ParseTokenIds(JsonFields& fields, ModelSpec& spec) {
  AddTokenIds(fields, "eos_token_id", spec.vocab, spec.eos_ids);
  std::vector<int32_t> bos;
  AddTokenIds(fields, "bos_token_id", spec.vocab, bos);
  if (!bos.empty() && !spec.bos_id.has_value()) spec.bos_id = bos[0];
}

}  // namespace

absl::StatusOr<ModelSpec> ParseModelConfig(absl::string_view json_text, absl::string_view generation_config_json) {
  ASSIGN_OR_RETURN(const json root, ParseObject(json_text, "config.json"));
  ModelSpec spec;
  JsonFields fields(root, "config.json: ");
  ParseFamily(fields, spec);
  RETURN_IF_ERROR(fields.status());
  RETURN_IF_ERROR(ParseQuantization(root, spec));
  ParseShapes(fields, spec);
  ParseAttention(fields, spec.attention);
  ParseGate(fields, spec, spec.gate);
  ParseTokenIds(fields, spec);
  RETURN_IF_ERROR(fields.status());
  RETURN_IF_ERROR(ParseRope(root, spec.attention));
  if (!generation_config_json.empty()) {
    ASSIGN_OR_RETURN(const json generation, ParseObject(generation_config_json, "generation_config.json"));
    JsonFields generation_fields(generation, "generation_config.json: ");
    ParseTokenIds(generation_fields, spec);
    RETURN_IF_ERROR(generation_fields.status());
  }
  std::sort(spec.eos_ids.begin(), spec.eos_ids.end());
  spec.eos_ids.erase(std::unique(spec.eos_ids.begin(), spec.eos_ids.end()), spec.eos_ids.end());
  return spec;
}

}  // namespace conclave
