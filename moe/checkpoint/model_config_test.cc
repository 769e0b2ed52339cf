#include "moe/checkpoint/model_config.h"

#include <cstdlib>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "moe/base/ids.h"
#include "moe/checkpoint/model_spec.h"
#include "moe/checkpoint/published_configs.h"
#include "moe/checkpoint/test_files.h"
#include "nlohmann/json.hpp"

namespace conclave {
namespace {

using nlohmann::json;
using testing::ElementsAre;
using testing::HasSubstr;

ModelSpec Parse(const std::string& config, const std::string& generation = "") {
  auto spec = ParseModelConfig(config, generation);
  EXPECT_TRUE(spec.ok()) << spec.status();
  return spec.ok() ? *spec : ModelSpec();
}

// A published config with some fields replaced; null removes one.
std::string With(const char* base, const json& changes) {
  json config = json::parse(base);
  for (const auto& [key, value] : changes.items()) {
    if (value == "remove") {
      config.erase(key);
    } else {
      config[key] = value;
    }
  }
  return config.dump();
}

void ExpectRefused(const std::string& config, const std::vector<std::string>& words) {
  const auto spec = ParseModelConfig(config, "");
  ASSERT_FALSE(spec.ok()) << words[0];
  EXPECT_EQ(spec.status().code(), absl::StatusCode::kInvalidArgument);
  for (const std::string& word : words) EXPECT_THAT(std::string(spec.status().message()), HasSubstr(word));
}

void ExpectRefusedV3(const json& changes, const std::vector<std::string>& words) {
  ExpectRefused(With(published_configs::kDeepSeekV3, changes), words);
}

TEST(PublishedConfig, DeepSeekV3) {
  const ModelSpec spec = Parse(published_configs::kDeepSeekV3);
  EXPECT_EQ(spec.family, ModelFamily::kDeepSeekV3);
  EXPECT_EQ(spec.layers, 61);
  EXPECT_EQ(spec.moe_layers(), 58);
  EXPECT_FALSE(spec.IsMoe(LayerId{2}));
  EXPECT_TRUE(spec.IsMoe(LayerId{3}));
  EXPECT_EQ(spec.mtp_layers, 1);
  EXPECT_EQ(spec.attention.q_lora_rank, 1536);
  EXPECT_EQ(spec.attention.cache_width(), 576);
  EXPECT_TRUE(spec.attention.rope_interleaved);
  ASSERT_TRUE(spec.attention.yarn.has_value());
  EXPECT_EQ(*spec.attention.yarn, (YarnSpec{40, 4096, 32, 1, 1.0, 1.0}));
  EXPECT_EQ(spec.gate.score_function, ScoreFunction::kSigmoid);
  EXPECT_EQ(spec.gate.method, TopKMethod::kNoAuxTc);
  EXPECT_TRUE(spec.gate.has_selection_bias);
  EXPECT_TRUE(spec.gate.normalise_top_k);
  EXPECT_EQ(spec.gate.groups, 8);
  EXPECT_EQ(spec.gate.groups_kept, 4);
  EXPECT_FLOAT_EQ(spec.gate.routed_scaling_factor, 2.5f);
  EXPECT_EQ(spec.block_quant, (BlockQuantSpec{128, 128, false}));
  EXPECT_EQ(spec.bos_id, 0);
  EXPECT_THAT(spec.eos_ids, ElementsAre(1));
  EXPECT_EQ(Parse(published_configs::kDeepSeekV31).block_quant, (BlockQuantSpec{128, 128, true}));
}

TEST(PublishedConfig, DeepSeekV2AndLite) {
  const ModelSpec v2 = Parse(published_configs::kDeepSeekV2);
  EXPECT_EQ(v2.family, ModelFamily::kDeepSeekV2);
  EXPECT_EQ(v2.gate.score_function, ScoreFunction::kSoftmax);
  EXPECT_EQ(v2.gate.method, TopKMethod::kGroupLimitedGreedy);
  EXPECT_EQ(v2.gate.groups_kept, 3);
  EXPECT_FALSE(v2.gate.has_selection_bias);
  EXPECT_FALSE(v2.gate.normalise_top_k);
  EXPECT_FALSE(v2.block_quant.present());
  EXPECT_DOUBLE_EQ(v2.attention.yarn->mscale_all_dim, 0.707);
  const ModelSpec lite = Parse(published_configs::kDeepSeekV2Lite);
  EXPECT_EQ(lite.attention.q_lora_rank, 0);
  EXPECT_EQ(lite.gate.method, TopKMethod::kGreedy);
  EXPECT_EQ(lite.gate.groups, 1);
}

TEST(PublishedConfig, KimiK2AndMoonlight) {
  const ModelSpec kimi = Parse(published_configs::kKimiK2, R"({"eos_token_id": 163586, "max_length": 131072})");
  EXPECT_EQ(kimi.family, ModelFamily::kKimiK2);
  EXPECT_EQ(kimi.gate.experts, 384);
  EXPECT_EQ(kimi.mtp_layers, 0);
  EXPECT_THAT(kimi.eos_ids, ElementsAre(163585, 163586));
  const ModelSpec moonlight = Parse(published_configs::kMoonlight);
  EXPECT_EQ(moonlight.attention.q_lora_rank, 0);
  EXPECT_EQ(moonlight.shared_experts, 2);
  EXPECT_FALSE(moonlight.attention.yarn.has_value());
  EXPECT_DOUBLE_EQ(moonlight.attention.rope_theta, 50000.0);
  EXPECT_FLOAT_EQ(moonlight.rms_norm_eps, 1e-5f);
}

TEST(ModelConfig, WhatIsWrittenReadsBackAsTheSame) {
  for (const char* config :
       {published_configs::kDeepSeekV3, published_configs::kDeepSeekV31, published_configs::kDeepSeekV2,
        published_configs::kDeepSeekV2Lite, published_configs::kKimiK2, published_configs::kMoonlight}) {
    const ModelSpec spec = Parse(config, R"({"eos_token_id": [5, 7, 5]})");
    EXPECT_EQ(Parse(WriteModelConfig(spec, "bfloat16")), spec) << WriteModelConfig(spec, "bfloat16");
  }
}

TEST(ModelConfig, RopeParametersOfTransformers5) {
  const ModelSpec old_spelling = Parse(published_configs::kDeepSeekV3);
  json yarn = json::parse(published_configs::kDeepSeekV3)["rope_scaling"];
  yarn.erase("type");
  yarn["rope_type"] = "yarn";
  yarn["rope_theta"] = 10000.0;
  EXPECT_EQ(Parse(With(published_configs::kDeepSeekV3,
                       {{"rope_scaling", "remove"}, {"rope_theta", "remove"}, {"rope_parameters", yarn}})),
            old_spelling);
  EXPECT_EQ(Parse(With(published_configs::kDeepSeekV3, {{"rope_scaling", nullptr}, {"rope_parameters", yarn}})),
            old_spelling);
  const ModelSpec plain =
      Parse(With(published_configs::kMoonlight,
                 {{"rope_theta", "remove"}, {"rope_parameters", {{"rope_type", "default"}, {"rope_theta", 7e4}}}}));
  EXPECT_DOUBLE_EQ(plain.attention.rope_theta, 7e4);
  EXPECT_FALSE(plain.attention.yarn.has_value());
  EXPECT_DOUBLE_EQ(Parse(With(published_configs::kMoonlight, {{"rope_theta", "remove"}})).attention.rope_theta, 10000);
}

TEST(ModelConfig, RefusesOtherRopeSettingsByName) {
  ExpectRefusedV3({{"rope_scaling", {{"type", "linear"}, {"factor", 2.0}}}}, {"rope_scaling.rope_type", "linear"});
  ExpectRefusedV3({{"rope_scaling", "remove"}, {"rope_parameters", {{"rope_type", "llama3"}}}}, {"llama3"});
  ExpectRefusedV3({{"rope_scaling", {{"factor", 2.0}}}}, {"rope_type is missing"});
  ExpectRefusedV3({{"rope_scaling", {{"type", "yarn"}, {"rope_type", "default"}}}}, {"contradicts type"});
  ExpectRefusedV3({{"rope_scaling", {{"type", "yarn"}, {"original_max_position_embeddings", 4096}}}}, {"factor"});
  ExpectRefusedV3({{"rope_scaling", {{"type", "yarn"}, {"factor", 40}}}}, {"original_max_position_embeddings"});
  ExpectRefusedV3({{"rope_scaling", 40}}, {"rope_scaling must be an object"});
  ExpectRefusedV3({{"rope_theta", -1}}, {"rope_theta"});
  ExpectRefusedV3({{"rope_theta", "10000"}}, {"rope_theta must be a number"});
  ExpectRefusedV3({{"rope_parameters", {{"rope_type", "default"}}}}, {"rope_parameters contradicts rope_scaling"});
  ExpectRefusedV3({{"rope_scaling", {{"type", "default"}, {"rope_theta", 5}}}}, {"contradicts rope_theta 10000"});
  ExpectRefusedV3({{"qk_rope_head_dim", 63}}, {"qk_rope_head_dim", "odd"});
}

TEST(ModelConfig, DefaultsOfEachFamily) {
  const json gone = {{"scoring_func", "remove"},
                     {"topk_method", "remove"},
                     {"norm_topk_prob", "remove"},
                     {"moe_layer_freq", "remove"},
                     {"rms_norm_eps", "remove"}};
  const ModelSpec v3 = Parse(With(published_configs::kDeepSeekV3, gone));
  EXPECT_EQ(v3, Parse(published_configs::kDeepSeekV3));
  const ModelSpec lite = Parse(With(published_configs::kDeepSeekV2Lite, gone));
  EXPECT_EQ(lite, Parse(published_configs::kDeepSeekV2Lite));
  // A greedy gate looks at no groups, and transformers writes null there.
  EXPECT_EQ(Parse(With(published_configs::kDeepSeekV2Lite, {{"n_group", nullptr}, {"topk_group", "remove"}})), lite);
}

TEST(ModelConfig, V2WeightsAreNotNormalisedWhateverTheFlagSays) {
  EXPECT_FALSE(Parse(With(published_configs::kDeepSeekV2, {{"norm_topk_prob", true}})).gate.normalise_top_k);
  EXPECT_FALSE(Parse(With(published_configs::kDeepSeekV3, {{"norm_topk_prob", false}})).gate.normalise_top_k);
}

TEST(ModelConfig, RefusesContradictions) {
  ExpectRefusedV3({{"num_experts_per_tok", 300}}, {"num_experts_per_tok"});
  ExpectRefusedV3({{"n_routed_experts", 4}}, {"num_experts_per_tok is 8 of n_routed_experts 4"});
  ExpectRefusedV3({{"n_routed_experts", 255}}, {"n_routed_experts", "not divisible by n_group 8"});
  ExpectRefusedV3({{"topk_group", 9}}, {"topk_group is 9 of n_group 8"});
  ExpectRefusedV3({{"n_routed_experts", 8}, {"num_experts_per_tok", 5}}, {"leave 4 experts"});
  ExpectRefusedV3({{"n_routed_experts", 8}, {"num_experts_per_tok", 4}}, {"one expert a group"});
  ExpectRefusedV3({{"first_k_dense_replace", 61}}, {"first_k_dense_replace"});
  ExpectRefusedV3({{"eos_token_id", 129280}}, {"eos_token_id", "129280"});
  ExpectRefusedV3({{"eos_token_id", -1}}, {"eos_token_id"});
  ExpectRefusedV3({{"eos_token_id", {1, "x"}}}, {"eos_token_id"});
  ExpectRefusedV3({{"bos_token_id", 1.5}}, {"bos_token_id"});
  ExpectRefusedV3({{"hidden_act", "gelu"}}, {"hidden_act", "gelu"});
  ExpectRefusedV3({{"scoring_func", "sqrtsoftplus"}}, {"scoring_func", "sqrtsoftplus"});
  ExpectRefusedV3({{"topk_method", "hash"}}, {"topk_method", "hash"});
}

TEST(ModelConfig, RefusesMissingZeroNegativeHugeAndMistypedFields) {
  for (const char* name :
       {"vocab_size", "hidden_size", "num_hidden_layers", "moe_intermediate_size", "max_position_embeddings",
        "num_attention_heads", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "n_routed_experts",
        "num_experts_per_tok", "n_group", "topk_group", "intermediate_size"}) {
    SCOPED_TRACE(name);
    ExpectRefusedV3({{name, "remove"}}, {absl::StrCat(name, " is missing")});
    ExpectRefusedV3({{name, nullptr}}, {absl::StrCat(name, " is missing")});
    ExpectRefusedV3({{name, 0}}, {name});
    ExpectRefusedV3({{name, -5}}, {name});
    ExpectRefusedV3({{name, 1e18}}, {name});
    ExpectRefusedV3({{name, 9223372036854775807}}, {name});
    ExpectRefusedV3({{name, 18446744073709551615u}}, {name});
    ExpectRefusedV3({{name, 64.5}}, {name, "integer"});
    ExpectRefusedV3({{name, "64"}}, {name, "integer"});
    ExpectRefusedV3({{name, json::array({64})}}, {name, "integer"});
    ExpectRefusedV3({{name, true}}, {name, "integer"});
  }
  ExpectRefusedV3({{"n_shared_experts", 8000}}, {"n_shared_experts"});
  ExpectRefusedV3({{"q_lora_rank", 0}}, {"q_lora_rank"});
  ExpectRefusedV3({{"num_nextn_predict_layers", -1}}, {"num_nextn_predict_layers"});
  ExpectRefusedV3({{"norm_topk_prob", 1}}, {"norm_topk_prob"});
  ExpectRefusedV3({{"rms_norm_eps", "1e-6"}}, {"rms_norm_eps"});
}

TEST(ModelConfig, NamesTheUnsupportedFamily) {
  for (const char* type : {"llama", "deepseek_v32", "kimi_linear", "DEEPSEEK_V3"}) {
    ExpectRefusedV3({{"model_type", type}}, {type, "deepseek_v2, deepseek_v3 and kimi_k2"});
  }
  ExpectRefusedV3({{"model_type", "remove"}}, {"model_type is missing", "supported"});
  ExpectRefusedV3({{"model_type", 3}}, {"model_type"});
}

TEST(ModelConfig, NamesTheUnsupportedQuantisation) {
  const auto refused = [](const json& quantization, const std::vector<std::string>& words) {
    ExpectRefusedV3({{"quantization_config", quantization}}, words);
  };
  refused({{"quant_method", "awq"}, {"bits", 4}}, {"awq", "AWQ", "not supported"});
  refused({{"quant_method", "gptq"}}, {"GPTQ"});
  refused({{"quant_method", "compressed-tensors"}}, {"compressed-tensors"});
  refused({{"quant_method", "bitsandbytes"}}, {"bitsandbytes"});
  refused({{"quant_method", "modelopt"}, {"quant_algo", "NVFP4"}}, {"NVFP4", "modelopt"});
  refused({{"quant_algo", "NVFP4"}}, {"NVFP4"});
  refused({{"bits", 4}}, {"without a quant_method"});
  refused({{"quant_method", "fp8"}}, {"weight_block_size"});
  refused({{"quant_method", "fp8"}, {"weight_block_size", {128}}}, {"weight_block_size"});
  refused({{"quant_method", "fp8"}, {"weight_block_size", {0, 128}}}, {"weight_block_size"});
  refused({{"quant_method", "fp8"}, {"weight_block_size", {-1, 128}}}, {"weight_block_size"});
  refused({{"quant_method", "fp8"}, {"weight_block_size", {128, 128}}, {"fmt", "e5m2"}}, {"e5m2"});
  refused({{"quant_method", "fp8"}, {"weight_block_size", {128, 128}}, {"activation_scheme", "static"}}, {"static"});
  refused({{"quant_method", "fp8"}, {"weight_block_size", {128, 128}}, {"scale_fmt", "odd"}}, {"odd"});
  refused("fp8", {"quantization_config must be an object"});
  ExpectRefusedV3({{"compression_config", {{"format", "pack-quantized"}}}}, {"compressed-tensors"});
}

// Kimi-K2-Thinking's own.
json PackedQuantization() {
  return json::parse(R"json({
    "config_groups": {"group_0": {"input_activations": null, "output_activations": null, "targets": ["Linear"],
      "weights": {"actorder": null, "block_structure": null, "dynamic": false, "group_size": 32, "num_bits": 4,
                  "observer": "minmax", "observer_kwargs": {}, "strategy": "group", "symmetric": true, "type": "int"}}},
    "format": "pack-quantized",
    "ignore": ["lm_head", "re:.*self_attn.*", "re:.*shared_experts.*", "re:.*mlp\\.(gate|up|gate_up|down)_proj.*"],
    "kv_cache_scheme": null, "quant_method": "compressed-tensors", "quantization_status": "compressed"})json");
}

TEST(ModelConfig, ReadsPackedIntegers) {
  json config = json::parse(published_configs::kDeepSeekV3);
  config["quantization_config"] = PackedQuantization();
  auto spec = ParseModelConfig(config.dump(), "");
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_EQ(spec->packed_quant, (PackedQuantSpec{4, 32}));
  EXPECT_FALSE(spec->block_quant.present());
  EXPECT_EQ(*ParseModelConfig(WriteModelConfig(*spec, "bfloat16"), ""), *spec);
  json& weights = config["quantization_config"]["config_groups"]["group_0"]["weights"];
  weights["num_bits"] = 8;
  weights["strategy"] = "channel";
  weights["group_size"] = nullptr;
  spec = ParseModelConfig(config.dump(), "");
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_EQ(spec->packed_quant, (PackedQuantSpec{8, 0}));
  EXPECT_EQ(*ParseModelConfig(WriteModelConfig(*spec, "bfloat16"), ""), *spec);
}

TEST(ModelConfig, NamesWhatPackedIntegersMayNotBe) {
  const auto refused = [](const std::string& key, const json& value, const std::vector<std::string>& words) {
    json quantization = PackedQuantization();
    json& weights = quantization["config_groups"]["group_0"]["weights"];
    (weights.contains(key) ? weights : quantization)[key] = value;
    ExpectRefusedV3({{"quantization_config", quantization}}, words);
  };
  refused("num_bits", 2, {"config_groups.group_0.weights.num_bits", "4, 8"});
  refused("num_bits", -4, {"num_bits"});
  refused("symmetric", false, {"symmetric", "zero points"});
  refused("type", "float", {"type", "float"});
  refused("strategy", "block", {"strategy", "block"});
  refused("group_size", 0, {"group_size"});
  refused("group_size", 20, {"group_size", "multiple of 8"});
  refused("group_size", 1e18, {"group_size"});
  refused("actorder", "group", {"actorder", "reorders"});
  refused("dynamic", true, {"dynamic"});
  refused("format", "int-quantized", {"format", "int-quantized", "pack-quantized is"});
  refused("kv_cache_scheme", {{"num_bits", 8}}, {"kv_cache_scheme"});
  refused("quantization_status", "frozen", {"frozen"});
  refused("sparsity_config", {{"format", "sparse-24"}}, {"sparsity_config"});
  refused("config_groups", json::object(), {"config_groups"});
  refused("config_groups", {{"a", 3}}, {"config_groups.a"});
  refused("config_groups", {{"a", {{"weights", nullptr}}}}, {"config_groups.a.weights", "missing"});
  json two = PackedQuantization();
  two["config_groups"]["group_1"] = two["config_groups"]["group_0"];
  two["config_groups"]["group_1"]["weights"]["num_bits"] = 8;
  ExpectRefusedV3({{"quantization_config", two}}, {"group_1", "differs"});
  two["config_groups"]["group_1"]["input_activations"] = {{"num_bits", 8}};
  ExpectRefusedV3({{"quantization_config", two}}, {"group_1.input_activations"});
}

TEST(ModelConfig, RefusesWhatIsNotAStrictJsonObject) {
  ExpectRefused("", {"config.json", "not valid JSON at byte 1: parse error at line 1"});
  ExpectRefused(published_configs::kDeepSeekV3 + std::string(1, '\0') + "x", {"a zero byte"});
  ExpectRefused("[]", {"must be a JSON object"});
  ExpectRefused("{\"model_type\": \"deepseek_v3\", \"model_type\": \"deepseek_v2\"}", {"model_type", "twice"});
  ExpectRefused("{\"a\": " + std::string(1'000'000, '[') + "}", {"nested deeper"});
  ExpectRefused("{\"a\": \"\xff\"}", {"UTF-8"});
  ExpectRefused("{\"a\": 1e999}", {"not valid JSON"});
  ExpectRefused(std::string((16 << 20) + 1, ' '), {"more than"});
  const auto spec = ParseModelConfig(published_configs::kDeepSeekV3, "{\"eos_token_id\": 99999999}");
  EXPECT_THAT(std::string(spec.status().message()), HasSubstr("generation_config.json: eos_token_id"));
}

TEST(ModelConfig, ReadsEveryModelThatIsAround) {
  const std::vector<std::string> directories = test_files::ModelDirectories(std::getenv("CONCLAVE_SHARED_DIR"));
  if (directories.empty()) GTEST_SKIP() << "no models: neither //models:demo nor CONCLAVE_SHARED_DIR";
  for (const std::string& directory : directories) {
    SCOPED_TRACE(directory);
    const std::string config = test_files::ReadAll(directory + "/config.json");
    const ModelSpec spec = Parse(config, test_files::ReadAll(directory + "/generation_config.json"));
    const json fields = json::parse(config);
    EXPECT_EQ(spec.gate.experts, fields["n_routed_experts"]);
    EXPECT_EQ(spec.gate.top_k, fields["num_experts_per_tok"]);
    EXPECT_EQ(spec.attention.yarn.has_value(), !fields["rope_scaling"].is_null());
    EXPECT_EQ(spec.block_quant.present(), fields.contains("quantization_config"));
    EXPECT_FALSE(spec.eos_ids.empty());
  }
}

}  // namespace
}  // namespace conclave
