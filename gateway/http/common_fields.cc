#include "gateway/http/common_fields.h"

#include <cstdint>
#include <limits>
#include <optional>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "gateway/http/format_fields.h"
#include "gateway/http/tool_fields.h"
#include "gateway/validation.h"

namespace conclave {
namespace {

using nlohmann::json;

constexpr int32_t kInt32Max = std::numeric_limits<int32_t>::max();
constexpr double kFloatMax = std::numeric_limits<float>::max();

void ReadStop(BodyFields& fields, v1::GenerateRequest& request) {
  const json* stop = fields.Find("stop");
  if (stop == nullptr) return;
  if (stop->is_string()) {
    if (!stop->get_ref<const std::string&>().empty()) request.add_stop(stop->get<std::string>());
    return;
  }
  if (!stop->is_array()) return fields.Fail("stop", "must be a string or a list of strings");
  if (stop->size() > kStopsMax) {
    return fields.Fail("stop", absl::StrCat("has ", stop->size(), " texts; at most ", kStopsMax, " are taken"));
  }
  for (size_t i = 0; i < stop->size(); ++i) {
    const json& text = (*stop)[i];
    if (!text.is_string()) return fields.Fail(absl::StrCat("stop[", i, "]"), "must be a string");
    if (text.get_ref<const std::string&>().empty()) {
      return fields.Fail(absl::StrCat("stop[", i, "]"), "must not be empty");
    }
    request.add_stop(text.get<std::string>());
  }
}

void ReadLogitBias(BodyFields& fields, v1::SamplingOptions& sampling) {
  const json* biases = fields.Find("logit_bias");
  if (biases == nullptr) return;
  if (!biases->is_object()) return fields.Fail("logit_bias", "must be an object from token ids to numbers");
  if (biases->size() > kLogitBiasesMax) {
    return fields.Fail("logit_bias", absl::StrCat("has ", biases->size(), " ids; at most ", kLogitBiasesMax));
  }
  for (const auto& [name, bias] : biases->items()) {
    int32_t id = 0;
    if (!absl::SimpleAtoi(name, &id) || id < 0) {
      return fields.Fail("logit_bias", "has a key that is no token id");
    }
    if (!bias.is_number() || !(bias.get<double>() >= -100 && bias.get<double>() <= 100)) {
      return fields.Fail(absl::StrCat("logit_bias.", id), "must be a number from -100 to 100");
    }
    (*sampling.mutable_logit_bias())[id] = bias.get<float>();
  }
}

void ReadSampling(BodyFields& fields, const TranslationOptions& options, v1::SamplingOptions& sampling) {
  const auto temperature = fields.Number("temperature", 0, kFloatMax);
  if (temperature.has_value()) sampling.set_temperature(static_cast<float>(*temperature));
  if (!temperature.has_value() && options.temperature.has_value()) sampling.set_temperature(*options.temperature);
  if (const auto p = fields.Number("top_p", 0, 1); p.has_value()) sampling.set_top_p(static_cast<float>(*p));
  // -1 means all, as it does elsewhere.
  if (const auto k = fields.Int("top_k", -1, kInt32Max); k.has_value()) {
    sampling.set_top_k(*k < 0 ? 0 : static_cast<int32_t>(*k));
  }
  if (const auto p = fields.Number("min_p", 0, 1); p.has_value()) sampling.set_min_p(static_cast<float>(*p));
  if (const auto penalty = fields.Number("repetition_penalty", 0, kFloatMax); penalty.has_value()) {
    sampling.set_repetition_penalty(static_cast<float>(*penalty));
  }
  if (const auto penalty = fields.Number("presence_penalty", -2, 2); penalty.has_value()) {
    sampling.set_presence_penalty(static_cast<float>(*penalty));
  }
  if (const auto penalty = fields.Number("frequency_penalty", -2, 2); penalty.has_value()) {
    sampling.set_frequency_penalty(static_cast<float>(*penalty));
  }
  const auto seed = fields.Int("seed", std::numeric_limits<int64_t>::min(), std::numeric_limits<int64_t>::max());
  if (seed.has_value()) sampling.set_seed(static_cast<uint64_t>(*seed));
  ReadLogitBias(fields, sampling);
}

// max_tokens may be 0 where there is an echo, which chats do not have.
void ReadLength(BodyFields& fields, bool chat, v1::GenerateRequest& request) {
  if (const auto tokens = fields.Int("min_tokens", 0, kInt32Max); tokens.has_value()) {
    request.set_min_tokens(static_cast<int32_t>(*tokens));
  }
  if (const auto tokens = fields.Int("max_tokens", chat ? 1 : 0, kInt32Max); tokens.has_value()) {
    request.set_max_tokens(static_cast<int32_t>(*tokens));
  }
  request.set_ignore_eos(fields.Bool("ignore_eos").value_or(false));
  if (const json* ids = fields.Find("stop_token_ids"); ids != nullptr) {
    ReadTokenIds(fields, "stop_token_ids", *ids, *request.mutable_stop_token_ids());
  }
  ReadStop(fields, request);
}

void ReadStream(BodyFields& fields, ApiRequest& api) {
  api.stream = fields.Bool("stream").value_or(false);
  const json* options = fields.Find("stream_options");
  if (options == nullptr) return;
  if (!options->is_object()) return fields.Fail("stream_options", "must be an object");
  if (!api.stream) return fields.Fail("stream_options", "has a meaning only with stream: true");
  BodyFields inner(*options, "stream_options.");
  api.include_usage = inner.Bool("include_usage").value_or(false);
  api.continuous_usage = inner.Bool("continuous_usage_stats").value_or(false);
  inner.Bool("include_obfuscation");  // of OpenAI's: padding against eavesdroppers, which changes no answer
  if (const absl::Status status = inner.Finish(); !status.ok()) fields.Fail(status);
}

// Fields with one value that asks for nothing; any other is not done here.
void ReadSettings(BodyFields& fields) {
  if (fields.Bool("store").value_or(false)) fields.FailUnsupported("store", "this server stores no answers");
  const std::string tier = fields.Text("service_tier").value_or("auto");
  if (tier != "auto" && tier != "default") fields.FailUnsupported("service_tier", "must be auto or default");
  for (const char* name : {"skip_special_tokens", "add_special_tokens"}) {
    if (!fields.Bool(name).value_or(true)) fields.FailUnsupported(name, "must be true");
  }
  // Names of the client's own, for its own records.
  fields.Harmless({"user", "metadata", "safety_identifier", "prompt_cache_key"});
  fields.Unsupported({"functions",
                      "function_call",
                      "prediction",
                      "audio",
                      "reasoning_effort",
                      "verbosity",
                      "web_search_options",
                      "prompt_cache_retention",
                      "guided_grammar",
                      "use_beam_search",
                      "length_penalty",
                      "chat_template",
                      "chat_template_kwargs",
                      "add_generation_prompt",
                      "continue_final_message",
                      "include_stop_str_in_output",
                      "truncate_prompt_tokens",
                      "bad_words",
                      "logits_processors"});
}

// A message's content: a text, or a list of parts that are texts.
std::optional<std::string> ReadContent(BodyFields& fields) {
  const json* content = fields.Find("content");
  if (content == nullptr) {
    fields.Fail("content", "is missing");
    return std::nullopt;
  }
  if (content->is_string()) return content->get<std::string>();
  if (!content->is_array() || content->empty()) {
    fields.Fail("content", "must be a string or a list of parts");
    return std::nullopt;
  }
  std::string text;
  for (size_t i = 0; i < content->size(); ++i) {
    const std::string name = absl::StrCat("content[", i, "]");
    const json& part = (*content)[i];
    if (!part.is_object()) {
      fields.Fail(name, "must be an object");
      return std::nullopt;
    }
    BodyFields inner(part, absl::StrCat(fields.path(), name, "."));
    const std::string type = inner.Text("type").value_or("");
    if (type != "text") inner.FailUnsupported("type", "must be text: this model takes nothing else");
    const auto value = inner.Text("text");
    if (!value.has_value()) inner.Fail("text", "is missing");
    if (const absl::Status status = inner.Finish(); !status.ok()) {
      fields.Fail(status);
      return std::nullopt;
    }
    text += *value;
  }
  return text;
}

}  // namespace

void ReadTokenIds(BodyFields& fields, const std::string& name, const json& list,
                  google::protobuf::RepeatedField<int32_t>& ids) {
  if (!list.is_array()) return fields.Fail(name, "must be a list of token ids");
  ids.Reserve(static_cast<int>(list.size()));
  for (size_t i = 0; i < list.size(); ++i) {
    const json& id = list[i];
    const bool small = id.is_number_unsigned() && id.get<uint64_t>() <= static_cast<uint64_t>(kInt32Max);
    if (!small) return fields.Fail(absl::StrCat(name, "[", i, "]"), "must be a token id, a whole number from 0");
    ids.Add(static_cast<int32_t>(id.get<uint64_t>()));
  }
}

void ReadMessages(BodyFields& fields, v1::ChatPrompt& chat) {
  const json* messages = fields.Find("messages");
  if (messages == nullptr) return fields.Fail("messages", "is missing");
  if (!messages->is_array()) return fields.Fail("messages", "must be a list");
  if (messages->empty()) return fields.Fail("messages", "must not be empty");
  for (size_t i = 0; i < messages->size(); ++i) {
    const std::string name = absl::StrCat("messages[", i, "]");
    if (!(*messages)[i].is_object()) return fields.Fail(name, "must be an object");
    BodyFields message((*messages)[i], absl::StrCat(name, "."));
    std::string role = message.Text("role").value_or("");
    // OpenAI's newer name for the same thing.
    if (role == "developer") role = "system";
    if (role == "function") message.FailUnsupported("role", "is not supported by this server: use tool");
    if (role != "system" && role != "user" && role != "assistant" && role != "tool") {
      message.Fail("role", "must be system, developer, user, assistant or tool");
    }
    v1::ChatMessage* turn = chat.add_messages();
    turn->set_role(role);
    ReadToolCalls(message, *turn);
    // An answer that only makes calls says nothing beside them.
    const bool may_be_silent = turn->tool_calls_size() > 0 && message.Find("content") == nullptr;
    if (!may_be_silent) {
      if (auto content = ReadContent(message); content.has_value()) turn->set_content(*std::move(content));
    }
    if (auto speaker = message.Text("name"); speaker.has_value()) turn->set_name(*std::move(speaker));
    // An answer of ours that comes back as a part of the conversation.
    if (role == "assistant") {
      if (auto thoughts = message.Text("reasoning_content"); thoughts.has_value()) {
        turn->set_reasoning_content(*std::move(thoughts));
      }
      message.Harmless({"refusal"});
    }
    const json* annotations = message.Find("annotations");
    if (annotations != nullptr && !annotations->empty()) message.FailUnsupported("annotations", "is not supported");
    message.Unsupported({"function_call", "audio"});
    if (const absl::Status status = message.Finish(); !status.ok()) return fields.Fail(status);
  }
}

void ReadCommonFields(BodyFields& fields, absl::string_view text, const TranslationOptions& options,
                      v1::GenerateRequest& request, ApiRequest& api) {
  request.set_model(fields.Text("model").value_or(""));
  ReadSampling(fields, options, *request.mutable_sampling());
  ReadLength(fields, api.chat, request);
  ReadStream(fields, api);
  api.choices = static_cast<int>(fields.Int("n", 1, kAnswersMax).value_or(1));
  if (api.choices > 1) request.set_n(api.choices);
  if (const auto priority = fields.Int("priority", std::numeric_limits<int32_t>::min(), kInt32Max);
      priority.has_value()) {
    request.set_priority(static_cast<int32_t>(*priority));
  }
  api.hash_logits = fields.Bool("hash_logits").value_or(false);
  request.set_hash_logits(api.hash_logits);
  request.set_report_token_experts(fields.Bool("token_experts").value_or(false));
  ReadFormat(fields, text, request);
  ReadSettings(fields);
}

}  // namespace conclave
