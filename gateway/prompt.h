// From what a client wrote to the ids that the model sees.
#ifndef CONCLAVE_GATEWAY_PROMPT_H_
#define CONCLAVE_GATEWAY_PROMPT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "conclave/v1/inference.pb.h"
#include "gateway/served_model.h"
#include "gateway/tools/tool_call_parser.h"

namespace conclave {

struct Prompt {
  std::vector<int32_t> ids;
  ToolCallReading calls;       // of the answers; its format is null where the model may call nothing
  std::string call_beginning;  // with which the prompt ends and every answer begins, where a call is forced
};

// The prompt: raw text gets BOS where the tokenizer asks for it; a chat is rendered with the model's own
// template, and nothing that a user wrote becomes a special token; token ids stay as they are.
// REQUIRES: ValidateGenerate accepts the request. INVALID_ARGUMENT names the field: the template refuses the chat, or
// the model has no template that can be run, or none for calls of functions.
absl::StatusOr<Prompt> MakePrompt(const ServedModel& model, const v1::GenerateRequest& request);
// The ids of the same; text gets no BOS where the request wants none.
absl::StatusOr<std::vector<int32_t>> PromptIds(const ServedModel& model, const v1::TokenizeRequest& request);

// "text", "chat.messages" or "tokens.ids": where the prompt stands, for messages.
absl::string_view PromptField(const v1::GenerateRequest& request);

}  // namespace conclave

#endif  // CONCLAVE_GATEWAY_PROMPT_H_
