#include "gateway/validation.h"

#include <cmath>
#include <cstdint>
#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "moe/base/limits.h"
#include "moe/base/status_macros.h"

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

absl::Status ValidateChat(const v1::ChatPrompt& chat) {
  if (chat.messages().empty()) return Invalid("chat.messages: must not be empty");
  if (chat.messages_size() > kChatMessagesMax) {
    return Invalid("chat.messages: has ", chat.messages_size(), " messages; at most ", kChatMessagesMax, " are taken");
  }
  int64_t bytes = 0;
  for (int i = 0; i < chat.messages_size(); ++i) {
    const std::string& role = chat.messages(i).role();
    if (role != "system" && role != "user" && role != "assistant") {
      return Invalid("chat.messages[", i, "].role: must be system, user or assistant");
    }
    bytes += static_cast<int64_t>(chat.messages(i).content().size());
  }
  if (bytes > limits::kPromptBytesMax) {
    return Invalid("chat.messages: have ", bytes, " bytes; at most ", limits::kPromptBytesMax, " are taken");
  }
  return absl::OkStatus();
}

absl::Status ValidateTokens(const v1::TokenPrompt& tokens, int vocab) {
  if (tokens.ids().empty()) return Invalid("tokens.ids: must not be empty");
  for (int i = 0; i < tokens.ids_size(); ++i) {
    if (tokens.ids(i) < 0 || tokens.ids(i) >= vocab) {
      return Invalid("tokens.ids[", i, "]: is ", tokens.ids(i), "; the vocabulary has ", vocab, " ids, from 0");
    }
  }
  return absl::OkStatus();
}

// Comparisons are written so that NaN fails them.
absl::Status ValidateSampling(const v1::SamplingOptions& sampling) {
  if (sampling.has_temperature() && !(sampling.temperature() >= 0 && std::isfinite(sampling.temperature()))) {
    return Invalid("sampling.temperature: is ", sampling.temperature(), "; it must be a finite number, 0 or more");
  }
  if (sampling.has_top_p() && !(sampling.top_p() > 0 && sampling.top_p() <= 1)) {
    return Invalid("sampling.top_p: is ", sampling.top_p(), "; it must be above 0 and at most 1");
  }
  if (sampling.has_top_k() && sampling.top_k() < 0) {
    return Invalid("sampling.top_k: is ", sampling.top_k(), "; it must be 0 (all) or more");
  }
  return absl::OkStatus();
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
  RETURN_IF_ERROR(ValidateSampling(request.sampling()));
  if (request.has_max_tokens() && request.max_tokens() < 1) {
    return Invalid("max_tokens: is ", request.max_tokens(), "; it must be at least 1");
  }
  switch (request.prompt_case()) {
    case v1::GenerateRequest::kText:
      return ValidateText("text", request.text());
    case v1::GenerateRequest::kChat:
      return ValidateChat(request.chat());
    case v1::GenerateRequest::kTokens:
      return ValidateTokens(request.tokens(), vocab);
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

absl::Status ValidatePromptLength(absl::string_view field, int64_t tokens, int context_max) {
  if (tokens < context_max) return absl::OkStatus();
  return Invalid(field, ": has ", tokens, " tokens; the context holds ", context_max,
                 ", at least one of them for the answer");
}

}  // namespace conclave
