#include "gateway/validation.h"

#include <cmath>
#include <cstdint>
#include <string>
#include <tuple>

#include "absl/strings/ascii.h"
#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "gateway/refusal.h"
#include "gateway/tools/tool_validation.h"
#include "moe/base/limits.h"
#include "moe/base/status_macros.h"
#include "moe/grammar/grammar.h"
#include "moe/grammar/grammar_message.h"

namespace conclave {
namespace {

template <typename... Parts>
absl::Status Invalid(const Parts&... parts) {
  return absl::InvalidArgumentError(absl::StrCat(parts...));
}

absl::Status ValidateModel(const std::string& model, absl::string_view served_model) {
  if (model.empty() || model == served_model) return absl::OkStatus();
  return absl::NotFoundError(absl::StrCat("model: '", absl::string_view(model).substr(0, 100),
                                          "' is not served here; '", served_model, "' is"));
}

absl::Status ValidateText(absl::string_view field, const std::string& text) {
  if (text.empty()) return Invalid(field, ": must not be empty");
  if (static_cast<int64_t>(text.size()) > limits::kPromptBytesMax) {
    return Invalid(field, ": has ", text.size(), " bytes; at most ", limits::kPromptBytesMax, " are taken");
  }
  return absl::OkStatus();
}

int64_t TextBytes(const v1::ChatMessage& message) {
  size_t bytes = message.content().size() + message.name().size() + message.tool_call_id().size() +
                 message.reasoning_content().size();
  for (const v1::ToolCall& call : message.tool_calls()) {
    bytes += call.id().size() + call.name().size() + call.arguments().size();
  }
  return static_cast<int64_t>(bytes);
}

absl::Status ValidateChat(const v1::ChatPrompt& chat) {
  if (chat.messages().empty()) return Invalid("chat.messages: must not be empty");
  if (chat.messages_size() > kChatMessagesMax) {
    return Invalid("chat.messages: has ", chat.messages_size(), " messages; at most ", kChatMessagesMax, " are taken");
  }
  int64_t bytes = 0;
  for (int i = 0; i < chat.messages_size(); ++i) {
    const std::string& role = chat.messages(i).role();
    if (role != "system" && role != "user" && role != "assistant" && role != "tool") {
      return Invalid("chat.messages[", i, "].role: must be system, user, assistant or tool");
    }
    bytes += TextBytes(chat.messages(i));
  }
  if (bytes > limits::kPromptBytesMax) {
    return Invalid("chat.messages: have ", bytes, " bytes; at most ", limits::kPromptBytesMax, " are taken");
  }
  RETURN_IF_ERROR(ValidateToolMessages(chat));
  return ValidateTools(chat);
}

absl::Status ValidateIds(absl::string_view field, const google::protobuf::RepeatedField<int32_t>& ids, int vocab) {
  for (int i = 0; i < ids.size(); ++i) {
    if (ids[i] < 0 || ids[i] >= vocab) {
      return Invalid(field, "[", i, "]: is ", ids[i], "; the vocabulary has ", vocab, " ids, from 0");
    }
  }
  return absl::OkStatus();
}

absl::Status ValidateLogitBias(const v1::SamplingOptions& sampling, int vocab) {
  if (static_cast<int>(sampling.logit_bias_size()) > kLogitBiasesMax) {
    return Invalid("sampling.logit_bias: has ", sampling.logit_bias_size(), " entries; at most ", kLogitBiasesMax,
                   " are taken");
  }
  for (const auto& [id, bias] : sampling.logit_bias()) {
    if (id < 0 || id >= vocab) {
      return Invalid("sampling.logit_bias: names the id ", id, "; the vocabulary has ", vocab, " ids, from 0");
    }
    if (!(bias >= -100 && bias <= 100)) {
      return Invalid("sampling.logit_bias: is ", bias, " for the id ", id, "; it must be in [-100, 100]");
    }
  }
  return absl::OkStatus();
}

// Comparisons are written so that NaN fails them.
absl::Status ValidatePenalties(const v1::SamplingOptions& sampling) {
  if (sampling.has_repetition_penalty() &&
      !(sampling.repetition_penalty() > 0 && std::isfinite(sampling.repetition_penalty()))) {
    return Invalid("sampling.repetition_penalty: is ", sampling.repetition_penalty(),
                   "; it must be a finite number above 0");
  }
  for (const auto& [name, present, penalty] :
       {std::tuple("presence_penalty", sampling.has_presence_penalty(), sampling.presence_penalty()),
        std::tuple("frequency_penalty", sampling.has_frequency_penalty(), sampling.frequency_penalty())}) {
    if (present && !(penalty >= -2 && penalty <= 2)) {
      return Invalid("sampling.", name, ": is ", penalty, "; it must be in [-2, 2]");
    }
  }
  return absl::OkStatus();
}

absl::Status ValidateSampling(const v1::SamplingOptions& sampling, int vocab) {
  if (sampling.has_temperature() && !(sampling.temperature() >= 0 && std::isfinite(sampling.temperature()))) {
    return Invalid("sampling.temperature: is ", sampling.temperature(), "; it must be a finite number, 0 or more");
  }
  if (sampling.has_top_p() && !(sampling.top_p() > 0 && sampling.top_p() <= 1)) {
    return Invalid("sampling.top_p: is ", sampling.top_p(), "; it must be above 0 and at most 1");
  }
  if (sampling.has_top_k() && sampling.top_k() < 0) {
    return Invalid("sampling.top_k: is ", sampling.top_k(), "; it must be 0 (all) or more");
  }
  if (sampling.has_min_p() && !(sampling.min_p() >= 0 && sampling.min_p() <= 1)) {
    return Invalid("sampling.min_p: is ", sampling.min_p(), "; it must be in [0, 1]");
  }
  RETURN_IF_ERROR(ValidatePenalties(sampling));
  return ValidateLogitBias(sampling, vocab);
}

// When the answer ends.
absl::Status ValidateStops(const v1::GenerateRequest& request, int vocab) {
  if (request.stop_size() > kStopsMax) {
    return Invalid("stop: has ", request.stop_size(), " texts; at most ", kStopsMax, " are taken");
  }
  for (int i = 0; i < request.stop_size(); ++i) {
    if (request.stop(i).empty()) return Invalid("stop[", i, "]: must not be empty");
    if (request.stop(i).size() > kStopBytesMax) {
      return Invalid("stop[", i, "]: has ", request.stop(i).size(), " bytes; at most ", kStopBytesMax, " are taken");
    }
  }
  if (request.stop_token_ids_size() > kStopIdsMax) {
    return Invalid("stop_token_ids: has ", request.stop_token_ids_size(), " ids; at most ", kStopIdsMax, " are taken");
  }
  RETURN_IF_ERROR(ValidateIds("stop_token_ids", request.stop_token_ids(), vocab));
  if (request.has_max_tokens() && request.max_tokens() < (request.echo() ? 0 : 1)) {
    return Invalid("max_tokens: is ", request.max_tokens(), "; it must be at least 1, or 0 with echo");
  }
  if (request.has_min_tokens() && request.min_tokens() < 0) {
    return Invalid("min_tokens: is ", request.min_tokens(), "; it must be 0 or more");
  }
  if (request.has_max_tokens() && request.min_tokens() > request.max_tokens()) {
    return Invalid("min_tokens: is ", request.min_tokens(), ", more than max_tokens, which is ", request.max_tokens());
  }
  return absl::OkStatus();
}

// How many answers, and what is told about them.
absl::Status ValidateAnswers(const v1::GenerateRequest& request) {
  if (request.has_n() && (request.n() < 1 || request.n() > kAnswersMax)) {
    return Invalid("n: is ", request.n(), "; it must be in [1, ", kAnswersMax, "]");
  }
  if (request.has_logprobs() && (request.logprobs() < 0 || request.logprobs() > kTopLogprobsMax)) {
    return Invalid("logprobs: is ", request.logprobs(), "; it must be in [0, ", kTopLogprobsMax, "]");
  }
  if (request.has_priority() && (request.priority() < -kPriorityMax || request.priority() > kPriorityMax)) {
    return Invalid("priority: is ", request.priority(), "; it must be in [-", kPriorityMax, ", ", kPriorityMax, "]");
  }
  return absl::OkStatus();
}

// The field of a grammar as its message names it.
absl::string_view GrammarField(const v1::Grammar& grammar) {
  switch (grammar.kind_case()) {
    case v1::Grammar::kJsonSchema:
      return "grammar.json_schema";
    case v1::Grammar::kRegex:
      return "grammar.regex";
    case v1::Grammar::kChoices:
      return "grammar.choices";
    default:
      return "grammar";
  }
}

// Compiled here too, though the attention service does it again: what is wrong is said before anything is queued.
absl::Status ValidateGrammar(const v1::GenerateRequest& request) {
  if (!request.has_grammar()) return absl::OkStatus();
  if (request.ignore_eos()) return Invalid("ignore_eos: is set beside a grammar, which says where the answer ends");
  if (request.min_tokens() > 0) {
    return Invalid("min_tokens: is ", request.min_tokens(), " beside a grammar, which says where the answer ends");
  }
  const v1::ChatPrompt& chat = request.chat();
  if (chat.tools_size() > 0 && chat.tool_choice().mode() != v1::ToolChoice::MODE_NONE) {
    return Invalid("grammar: is not supported beside tools, which it would keep from being called");
  }
  ASSIGN_OR_RETURN(const GrammarSpec spec, ToGrammarSpec(request.grammar()));
  const absl::Status status = CompileGrammar(spec).status();
  return status.ok() ? status : Invalid(GrammarField(request.grammar()), ": ", status.message());
}

}  // namespace

absl::Status ValidateRequestId(absl::string_view id) {
  if (id.size() > kRequestIdBytesMax) return Invalid("request_id: is longer than ", kRequestIdBytesMax, " bytes");
  for (const char c : id) {
    if (!absl::ascii_isgraph(static_cast<unsigned char>(c))) {
      return Invalid("request_id: must consist of visible ASCII characters");
    }
  }
  return absl::OkStatus();
}

absl::Status ValidateGenerate(const v1::GenerateRequest& request, absl::string_view served_model, int vocab) {
  RETURN_IF_ERROR(ValidateRequestId(request.request_id()));
  RETURN_IF_ERROR(ValidateModel(request.model(), served_model));
  RETURN_IF_ERROR(ValidateSampling(request.sampling(), vocab));
  RETURN_IF_ERROR(ValidateStops(request, vocab));
  RETURN_IF_ERROR(ValidateAnswers(request));
  RETURN_IF_ERROR(ValidateGrammar(request));
  switch (request.prompt_case()) {
    case v1::GenerateRequest::kText:
      return ValidateText("text", request.text());
    case v1::GenerateRequest::kChat:
      return ValidateChat(request.chat());
    case v1::GenerateRequest::kTokens:
      if (request.tokens().ids().empty()) return Invalid("tokens.ids: must not be empty");
      return ValidateIds("tokens.ids", request.tokens().ids(), vocab);
    case v1::GenerateRequest::PROMPT_NOT_SET:
      break;
  }
  return Invalid("prompt: one of text, chat and tokens must be set");
}

absl::Status ValidateTokenize(const v1::TokenizeRequest& request, absl::string_view served_model) {
  RETURN_IF_ERROR(ValidateModel(request.model(), served_model));
  switch (request.input_case()) {
    case v1::TokenizeRequest::kText:
      return ValidateText("text", request.text());
    case v1::TokenizeRequest::kChat:
      return ValidateChat(request.chat());
    case v1::TokenizeRequest::INPUT_NOT_SET:
      break;
  }
  return Invalid("input: one of text and chat must be set");
}

absl::Status ValidateDetokenize(const v1::DetokenizeRequest& request, absl::string_view served_model, int vocab) {
  RETURN_IF_ERROR(ValidateModel(request.model(), served_model));
  if (request.ids_size() > kDetokenizeIdsMax) {
    return Invalid("ids: has ", request.ids_size(), " ids; at most ", kDetokenizeIdsMax, " are taken");
  }
  return ValidateIds("ids", request.ids(), vocab);
}

absl::Status ValidatePromptLength(absl::string_view field, int64_t tokens, int context_max) {
  if (tokens < context_max) return absl::OkStatus();
  // OpenAI's words: clients that go on with another model, such as LiteLLM, look for them.
  absl::Status status = Invalid(field, ": has ", tokens, " tokens; this model's maximum context length is ",
                                context_max, ", at least one of them for the answer");
  status.SetPayload(kContextLengthPayload, absl::Cord());
  return status;
}

}  // namespace conclave
