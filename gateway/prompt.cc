#include "gateway/prompt.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "moe/tokenizer/chat_template.h"
#include "moe/tokenizer/tokenizer.h"

namespace conclave {
namespace {

absl::StatusOr<std::vector<int32_t>> ChatIds(const ServedModel& model, const v1::ChatPrompt& chat) {
  if (model.chat_template == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat("chat: this model takes text and tokens only: ", model.chat_status.message()));
  }
  std::vector<ChatTurn> turns;
  turns.reserve(static_cast<size_t>(chat.messages_size()));
  for (const v1::ChatMessage& message : chat.messages()) {
    turns.push_back({message.role(), message.content(), message.name()});
  }
  absl::StatusOr<std::vector<PromptPiece>> pieces = model.chat_template->Render(turns, /*add_generation_prompt=*/true);
  if (!pieces.ok()) {
    return absl::Status(pieces.status().code(), absl::StrCat("chat.messages: ", pieces.status().message()));
  }
  return EncodePieces(*model.tokenizer, *pieces);
}

}  // namespace

absl::StatusOr<std::vector<int32_t>> PromptIds(const ServedModel& model, const v1::GenerateRequest& request) {
  if (request.has_chat()) return ChatIds(model, request.chat());
  if (request.has_text()) return EncodePrompt(*model.tokenizer, request.text());
  return std::vector<int32_t>(request.tokens().ids().begin(), request.tokens().ids().end());
}

absl::StatusOr<std::vector<int32_t>> PromptIds(const ServedModel& model, const v1::TokenizeRequest& request) {
  if (request.has_chat()) return ChatIds(model, request.chat());
  if (request.without_bos()) return model.tokenizer->Encode(request.text(), SpecialText::kAsTokens);
  return EncodePrompt(*model.tokenizer, request.text());
}

absl::string_view PromptField(const v1::GenerateRequest& request) {
  if (request.has_chat()) return "chat.messages";
  return request.has_tokens() ? "tokens.ids" : "text";
}

}  // namespace conclave
