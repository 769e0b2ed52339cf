#include "gateway/http/api_request.h"

#include <cstdint>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "gateway/http/body_fields.h"
#include "gateway/http/common_fields.h"
#include "gateway/http/tool_fields.h"
#include "gateway/validation.h"
#include "moe/base/status_macros.h"

namespace conclave {
namespace {

using nlohmann::json;

void ReadChatLogprobs(BodyFields& fields, v1::GenerateRequest& request, ApiRequest& api) {
  api.logprobs = fields.Bool("logprobs").value_or(false);
  const auto top = fields.Int("top_logprobs", 0, kTopLogprobsMax);
  if (top.has_value() && !api.logprobs) return fields.Fail("top_logprobs", "has a meaning only with logprobs: true");
  if (api.logprobs) request.set_logprobs(static_cast<int32_t>(top.value_or(0)));
}

void ReadModalities(BodyFields& fields) {
  const json* modalities = fields.Find("modalities");
  if (modalities != nullptr && *modalities != json::array({"text"})) {
    fields.FailUnsupported("modalities", "is not supported by this server, but for [\"text\"]");
  }
}

// One request for each prompt: a text, a list of ids, or a list of either.
void ReadPrompts(BodyFields& fields, const TranslationOptions& options, const v1::GenerateRequest& common,
                 ApiRequest& api) {
  const auto add = [&](const json& prompt, const std::string& name) {
    v1::GenerateRequest& request = api.prompts.emplace_back(common);
    if (prompt.is_string()) return request.set_text(prompt.get<std::string>());
    if (!prompt.is_array()) return fields.Fail(name, "must be a string or a list of token ids");
    ReadTokenIds(fields, name, prompt, *request.mutable_tokens()->mutable_ids());
  };
  const json* prompt = fields.Find("prompt");
  if (prompt == nullptr) return fields.Fail("prompt", "is missing");
  const bool one = prompt->is_string() || (prompt->is_array() && !prompt->empty() && prompt->front().is_number());
  if (one) return add(*prompt, "prompt");
  if (!prompt->is_array()) return fields.Fail("prompt", "must be a string, or a list of strings or token ids");
  if (prompt->empty()) return fields.Fail("prompt", "must not be empty");
  if (prompt->size() > static_cast<size_t>(options.prompts_max)) {
    return fields.Fail("prompt", absl::StrCat("has ", prompt->size(), " prompts; at most ", options.prompts_max,
                                              " are taken in one request"));
  }
  for (size_t i = 0; i < prompt->size(); ++i) add((*prompt)[i], absl::StrCat("prompt[", i, "]"));
}

}  // namespace

absl::StatusOr<ApiRequest> TranslateChat(const json& body, absl::string_view text,
                                         const TranslationOptions& options) {
  ApiRequest api;
  api.chat = true;
  v1::GenerateRequest& request = api.prompts.emplace_back();
  BodyFields fields(body, "");
  ReadMessages(fields, *request.mutable_chat());
  ReadTools(fields, text, *request.mutable_chat());
  ReadCommonFields(fields, text, options, request, api);
  if (const auto tokens = fields.Int("max_completion_tokens", 1, std::numeric_limits<int32_t>::max());
      tokens.has_value()) {
    if (request.has_max_tokens() && request.max_tokens() != *tokens) {
      fields.Fail("max_completion_tokens", "contradicts max_tokens, its older name: give one of them");
    }
    request.set_max_tokens(static_cast<int32_t>(*tokens));
  }
  if (!request.has_max_tokens() && options.chat_tokens_max.has_value())
    request.set_max_tokens(*options.chat_tokens_max);
  ReadChatLogprobs(fields, request, api);
  ReadModalities(fields);
  fields.Unsupported({"prompt", "suffix", "echo", "best_of"});
  RETURN_IF_ERROR(fields.Finish());
  return api;
}

absl::StatusOr<ApiRequest> TranslateCompletion(const json& body, absl::string_view text,
                                               const TranslationOptions& options) {
  ApiRequest api;
  v1::GenerateRequest common;
  BodyFields fields(body, "");
  // OpenAI's server-side choice of the best answers; with as many as are returned there is nothing to choose.
  const auto best_of = fields.Int("best_of", 1, kAnswersMax);
  const auto suffix = fields.Text("suffix");
  ReadNoTools(fields);
  ReadCommonFields(fields, text, options, common, api);
  if (best_of.has_value() && *best_of != api.choices) fields.FailUnsupported("best_of", "must equal n");
  if (suffix.has_value() && !suffix->empty()) fields.FailUnsupported("suffix", "is not supported by this server");
  if (!common.has_max_tokens() && options.completion_tokens_max.has_value()) {
    common.set_max_tokens(*options.completion_tokens_max);
  }
  api.echo = fields.Bool("echo").value_or(false);
  common.set_echo(api.echo);
  if (const auto logprobs = fields.Int("logprobs", 0, kTopLogprobsMax); logprobs.has_value()) {
    api.logprobs = true;
    common.set_logprobs(static_cast<int32_t>(*logprobs));
  }
  ReadPrompts(fields, options, common, api);
  RETURN_IF_ERROR(fields.Finish());
  return api;
}

absl::StatusOr<ApiRequest> TranslateInvocation(const json& body, absl::string_view text,
                                               const TranslationOptions& options) {
  return body.contains("messages") ? TranslateChat(body, text, options) : TranslateCompletion(body, text, options);
}

absl::StatusOr<v1::TokenizeRequest> TranslateTokenize(const json& body, absl::string_view text) {
  v1::TokenizeRequest request;
  BodyFields fields(body, "");
  request.set_model(fields.Text("model").value_or(""));
  const auto prompt = fields.Text("prompt");
  if (prompt.has_value()) request.set_text(*prompt);
  if (fields.Find("messages") != nullptr) {
    if (prompt.has_value()) fields.Fail("messages", "stands beside prompt: give one of them");
    ReadMessages(fields, *request.mutable_chat());
    ReadTools(fields, text, *request.mutable_chat());
  } else if (!prompt.has_value()) {
    fields.Fail("prompt", "is missing; give it, or messages");
  }
  request.set_without_bos(!fields.Bool("add_special_tokens").value_or(true));
  if (!fields.Bool("add_generation_prompt").value_or(true)) {
    fields.FailUnsupported("add_generation_prompt", "must be true");
  }
  fields.Unsupported({"chat_template", "chat_template_kwargs", "continue_final_message", "return_token_strs"});
  RETURN_IF_ERROR(fields.Finish());
  return request;
}

absl::StatusOr<v1::DetokenizeRequest> TranslateDetokenize(const json& body) {
  v1::DetokenizeRequest request;
  BodyFields fields(body, "");
  request.set_model(fields.Text("model").value_or(""));
  const json* tokens = fields.Find("tokens");
  // Named as in the dispatcher's request: a prompt's ids are its tokens, and error_body.cc would take these for them.
  if (tokens == nullptr) fields.Fail("ids", "is missing");
  if (tokens != nullptr) ReadTokenIds(fields, "ids", *tokens, *request.mutable_ids());
  RETURN_IF_ERROR(fields.Finish());
  return request;
}

}  // namespace conclave
