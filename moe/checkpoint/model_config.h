// Reads a published config.json of the DeepSeek-V2, DeepSeek-V3 and Kimi-K2 families into a ModelSpec.
#ifndef CONCLAVE_MOE_CHECKPOINT_MODEL_CONFIG_H_
#define CONCLAVE_MOE_CHECKPOINT_MODEL_CONFIG_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "moe/checkpoint/model_spec.h"

namespace conclave {

// Parses the text of config.json, and of generation_config.json where `generation_config_json` is not empty (only its
// token ids are read). INVALID_ARGUMENT names the field that is missing, contradictory, beyond moe/base/limits.h or
// not supported: another family, activation, RoPE type or quantisation than listed here.
//   model_type           deepseek_v2, deepseek_v3 (also R1, V3.1 and Moonlight), kimi_k2
//   rope                 rope_theta + rope_scaling, or transformers 5's rope_parameters; types default and yarn
//   quantization_config  none; fp8 (e4m3, dynamic activations) with weight_block_size, scales in float32 or ue8m0; or
//                        compressed-tensors in format pack-quantized: symmetric INT4 or INT8, a scale a group or row
// For deepseek_v2 with softmax scores, norm_topk_prob is ignored and weights are never normalised, as in Hugging Face
// transformers (all published V2 models say false).
absl::StatusOr<ModelSpec> ParseModelConfig(absl::string_view json, absl::string_view generation_config_json);

// The reverse: a config.json that ParseModelConfig reads back as `spec`. `torch_dtype` is "bfloat16", "float32", ….
std::string WriteModelConfig(const ModelSpec& spec, absl::string_view torch_dtype);
// The object quantization_config of it, as JSON. `ignored`: names of layers that stay as they are, or "re:" and a
// regular expression; compressed-tensors lists them. REQUIRES: one of block_quant and packed_quant is present
std::string WriteQuantizationConfig(const ModelSpec& spec, const std::vector<std::string>& ignored);

}  // namespace conclave

#endif  // CONCLAVE_MOE_CHECKPOINT_MODEL_CONFIG_H_
