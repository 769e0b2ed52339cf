// From the JSON of OpenAI's API to what the dispatcher takes. Pure functions; INVALID_ARGUMENT names the field.
#ifndef CONCLAVE_GATEWAY_HTTP_API_REQUEST_H_
#define CONCLAVE_GATEWAY_HTTP_API_REQUEST_H_

#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "conclave/v1/inference.pb.h"
#include "nlohmann/json.hpp"

namespace conclave {

// What the translation must know of this server.
struct TranslationOptions {
  int prompts_max = 128;
  // Where the body says nothing. None: what the model's authors recommend, which the dispatcher knows.
  std::optional<float> temperature = 1.0f;
  std::optional<int> chat_tokens_max;  // else as many as the context holds
  std::optional<int> completion_tokens_max = 16;
};

// A chat or completions request.
struct ApiRequest {
  bool chat = false;
  std::vector<v1::GenerateRequest> prompts;  // alike but for the prompt; one for a chat
  int choices = 1;                           // n, of each prompt
  bool stream = false;
  bool include_usage = false;     // a last chunk with usage
  bool continuous_usage = false;  // usage in every chunk
  bool echo = false;
  bool logprobs = false;
  bool hash_logits = false;
};

// Bodies of /v1/chat/completions and /v1/completions. `text`: the body as it came, for the order of keys in
// tools and schemas.
absl::StatusOr<ApiRequest> TranslateChat(const nlohmann::json& body, absl::string_view text,
                                         const TranslationOptions& options);
absl::StatusOr<ApiRequest> TranslateCompletion(const nlohmann::json& body, absl::string_view text,
                                               const TranslationOptions& options);
// Of SageMaker's /invocations: a chat where there are `messages`, else completions.
absl::StatusOr<ApiRequest> TranslateInvocation(const nlohmann::json& body, absl::string_view text,
                                               const TranslationOptions& options);
// Bodies of /tokenize and /detokenize.
absl::StatusOr<v1::TokenizeRequest> TranslateTokenize(const nlohmann::json& body, absl::string_view text);
absl::StatusOr<v1::DetokenizeRequest> TranslateDetokenize(const nlohmann::json& body);

}  // namespace conclave

#endif  // CONCLAVE_GATEWAY_HTTP_API_REQUEST_H_
