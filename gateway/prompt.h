// From what a client wrote to the ids that the model sees.
#ifndef CONCLAVE_GATEWAY_PROMPT_H_
#define CONCLAVE_GATEWAY_PROMPT_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "conclave/v1/inference.pb.h"
#include "gateway/served_model.h"

namespace conclave {

// The ids of the prompt: raw text gets BOS where the tokenizer asks for it; a chat is rendered with the model's own
// template, and nothing that a user wrote becomes a special token; token ids stay as they are.
// REQUIRES: ValidateGenerate accepts the request. INVALID_ARGUMENT names the field: the template refuses the chat, or
// the model has no template that can be run.
absl::StatusOr<std::vector<int32_t>> PromptIds(const ServedModel& model, const v1::GenerateRequest& request);
// The same without the answer; text gets no BOS where the request wants none.
absl::StatusOr<std::vector<int32_t>> PromptIds(const ServedModel& model, const v1::TokenizeRequest& request);

// "text", "chat.messages" or "tokens.ids": where the prompt stands, for messages.
absl::string_view PromptField(const v1::GenerateRequest& request);

}  // namespace conclave

#endif  // CONCLAVE_GATEWAY_PROMPT_H_
