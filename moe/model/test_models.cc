#include "moe/model/test_models.h"

#include <filesystem>
#include <fstream>
#include <iterator>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "moe/base/status_macros.h"
#include "moe/base/test_folder.h"
#include "moe/checkpoint/make_model.h"

namespace conclave {
namespace {

std::string ConfigJson(const ConfigOverrides& overrides) {
  ConfigOverrides settings = {
      {"architectures", R"(["DeepseekV3ForCausalLM"])"},
      {"model_type", R"("deepseek_v3")"},
      {"vocab_size", "300"},
      {"hidden_size", "64"},
      {"intermediate_size", "96"},
      {"moe_intermediate_size", "32"},
      {"num_hidden_layers", "4"},
      {"num_attention_heads", "4"},
      {"num_key_value_heads", "4"},
      {"q_lora_rank", "48"},
      {"kv_lora_rank", "32"},
      {"qk_nope_head_dim", "16"},
      {"qk_rope_head_dim", "8"},
      {"v_head_dim", "16"},
      {"n_routed_experts", "16"},
      {"n_shared_experts", "1"},
      {"num_experts_per_tok", "4"},
      {"n_group", "4"},
      {"topk_group", "2"},
      {"first_k_dense_replace", "1"},
      {"moe_layer_freq", "1"},
      {"scoring_func", R"("sigmoid")"},
      {"topk_method", R"("noaux_tc")"},
      {"norm_topk_prob", "true"},
      {"routed_scaling_factor", "2.5"},
      {"max_position_embeddings", "4096"},
      {"rms_norm_eps", "1e-6"},
      {"rope_theta", "10000.0"},
      {"rope_scaling", R"({"type": "yarn", "factor": 40, "original_max_position_embeddings": 64, "beta_fast": 32,
                           "beta_slow": 1, "mscale": 1.0, "mscale_all_dim": 1.0})"},
      {"hidden_act", R"("silu")"},
      {"attention_bias", "false"},
      {"tie_word_embeddings", "false"},
      {"bos_token_id", "1"},
      {"eos_token_id", "2"},
  };
  for (const auto& [key, value] : overrides) settings[key] = value;
  std::string json = "{";
  for (const auto& [key, value] : settings) {
    absl::StrAppend(&json, json.size() > 1 ? ",\n" : "\n", "\"", key, "\": ", value);
  }
  return json + "\n}\n";
}

absl::Status WriteConfig(const std::string& path, const ConfigOverrides& overrides) {
  std::ofstream file(path);
  file << ConfigJson(overrides);
  file.close();
  return file ? absl::OkStatus() : absl::InternalError(absl::StrCat("cannot write ", path));
}

}  // namespace

absl::StatusOr<std::string> MakeTestModel(const ConfigOverrides& overrides, const std::string& dtype, uint64_t seed) {
  static int made = 0;
  const std::string base = absl::StrCat(TestFolder(), "/model-", ++made);
  std::filesystem::remove_all(base);
  std::filesystem::remove(base + ".json");
  RETURN_IF_ERROR(WriteConfig(base + ".json", overrides));
  MakeModelOptions options;
  options.config_file = base + ".json";
  options.dtype = dtype;
  options.seed = seed;
  options.out = base;
  RETURN_IF_ERROR(MakeModel(options, [](int64_t, int64_t) {}));
  return base;
}

absl::Status RenameTensor(const std::string& directory, const std::string& from, const std::string& to) {
  const std::string path = directory + "/model.safetensors";
  std::ifstream in(path, std::ios::binary);
  std::string bytes{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
  const size_t place = bytes.find("\"" + from + "\"");
  if (place == std::string::npos || from.size() != to.size()) {
    return absl::InvalidArgumentError(absl::StrCat("cannot rename ", from, " to ", to, " in ", path));
  }
  bytes.replace(place + 1, from.size(), to);
  std::ofstream(path, std::ios::binary) << bytes;
  return absl::OkStatus();
}

}  // namespace conclave
