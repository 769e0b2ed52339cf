// What a gateway knows of the model that it serves: its tokenizer, chat template and configuration. No weights.
#ifndef CONCLAVE_GATEWAY_SERVED_MODEL_H_
#define CONCLAVE_GATEWAY_SERVED_MODEL_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "gateway/generation_defaults.h"
#include "gateway/tools/tool_support.h"
#include "moe/tokenizer/chat_template.h"
#include "moe/tokenizer/tokenizer.h"
#include "moe/tokenizer/tokenizer_config.h"

namespace conclave {

// Immutable once served, so thread-safe.
struct ServedModel {
  std::string name;    // what clients call it
  std::string family;  // ModelSpec::model_type
  int vocab = 0;       // of the model; the tokenizer's may be smaller
  int context_max = 0;
  int experts_per_token = 0;     // the gate's top-k
  std::vector<int32_t> eos_ids;  // ascending
  std::unique_ptr<Tokenizer> tokenizer;
  std::unique_ptr<ChatTemplate> chat_template;  // null: chat is refused with chat_status
  absl::Status chat_status;                     // why there is no chat template
  ToolSupport tools;
  TokenizerConfig tokenizer_config;
  GenerationDefaults defaults;                  // for what requests leave out

  bool IsEos(int32_t id) const;
};

// Reads config.json, generation_config.json where present, the tokenizer's files and the chat template. Errors are
// those of ParseModelConfig and Tokenizer::Load; a template that is missing or cannot be run is no error here.
// `generation_defaults`: requests take defaults from generation_config.json, which must then be in order.
// `tool_call_parser`: as FindToolSupport takes it.
absl::StatusOr<std::unique_ptr<ServedModel>> LoadServedModel(const std::string& directory, const std::string& name,
                                                             bool generation_defaults,
                                                             const std::string& tool_call_parser);

}  // namespace conclave

#endif  // CONCLAVE_GATEWAY_SERVED_MODEL_H_
