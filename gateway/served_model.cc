#include "gateway/served_model.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "moe/base/limits.h"
#include "moe/base/status_macros.h"
#include "moe/checkpoint/model_config.h"
#include "moe/checkpoint/model_file.h"
#include "moe/checkpoint/model_spec.h"

namespace conclave {
namespace {

// Empty where there is none.
absl::StatusOr<std::string> ReadGenerationConfig(const std::string& directory) {
  if (!ModelFileExists(directory, "generation_config.json")) return std::string();
  return ReadModelFile(directory, "generation_config.json", limits::kConfigFileBytesMax);
}

absl::StatusOr<ModelSpec> ReadConfig(const std::string& directory, const std::string& generation_config) {
  ASSIGN_OR_RETURN(const std::string config, ReadModelFile(directory, "config.json", limits::kConfigFileBytesMax));
  absl::StatusOr<ModelSpec> spec = ParseModelConfig(config, generation_config);
  if (spec.ok()) return spec;
  return absl::Status(spec.status().code(), absl::StrCat(directory, "/config.json: ", spec.status().message()));
}

}  // namespace

bool ServedModel::IsEos(int32_t id) const { return std::binary_search(eos_ids.begin(), eos_ids.end(), id); }

absl::StatusOr<std::unique_ptr<ServedModel>> LoadServedModel(const std::string& directory, const std::string& name,
                                                             bool generation_defaults,
                                                             const std::string& tool_call_parser) {
  auto model = std::make_unique<ServedModel>();
  ASSIGN_OR_RETURN(const std::string generation_config, ReadGenerationConfig(directory));
  ASSIGN_OR_RETURN(const ModelSpec spec, ReadConfig(directory, generation_config));
  if (generation_defaults && !generation_config.empty()) {
    absl::StatusOr<GenerationDefaults> defaults = ParseGenerationDefaults(generation_config);
    if (!defaults.ok()) {
      return absl::InvalidArgumentError(absl::StrCat(directory, "/", defaults.status().message(),
                                                     "; correct it, or ignore it with --generation-defaults=false"));
    }
    model->defaults = *std::move(defaults);
  }
  model->name = name;
  model->family = spec.model_type;
  model->vocab = spec.vocab;
  model->context_max = spec.context_max;
  model->experts_per_token = spec.gate.top_k;
  model->eos_ids = spec.eos_ids;
  ASSIGN_OR_RETURN(model->tokenizer, Tokenizer::Load(directory));
  ASSIGN_OR_RETURN(model->tokenizer_config, ReadTokenizerConfig(directory));
  absl::StatusOr<std::unique_ptr<ChatTemplate>> chat_template = ChatTemplate::Load(directory);
  model->chat_status = chat_template.status();
  if (chat_template.ok()) model->chat_template = *std::move(chat_template);
  model->tools = FindToolSupport(model->chat_template.get(), *model->tokenizer, tool_call_parser);
  return model;
}

}  // namespace conclave
