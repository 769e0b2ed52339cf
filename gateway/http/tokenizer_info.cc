#include "gateway/http/tokenizer_info.h"

#include <optional>

#include "absl/strings/string_view.h"
#include "moe/base/json_writer.h"

namespace conclave {
namespace {

void Member(JsonWriter& json, absl::string_view name, const std::optional<std::string>& text) {
  json.Key(name);
  text.has_value() ? json.Text(*text) : json.Null();
}

}  // namespace

std::string TokenizerInfo(const ServedModel& model) {
  const TokenizerConfig& config = model.tokenizer_config;
  JsonWriter json;
  json.BeginObject().Key("tokenizer_class");
  config.tokenizer_class.empty() ? json.Null() : json.Text(config.tokenizer_class);
  Member(json, "bos_token", config.bos_token);
  Member(json, "eos_token", config.eos_token);
  Member(json, "pad_token", config.pad_token);
  Member(json, "unk_token", config.unk_token);
  json.Key("add_bos_token").Bool(model.tokenizer->add_bos());
  json.Key("model_max_length").Number(model.context_max).Key("chat_template");
  model.chat_template == nullptr ? json.Null() : json.Text(model.chat_template->source());
  return json.End().text();
}

}  // namespace conclave
