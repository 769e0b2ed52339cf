#include "gateway/prompt.h"

#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gateway/refusal.h"
#include "gateway/tools/tool_call_format.h"
#include "gateway/tools/tool_support.h"
#include "gateway/tools/tool_validation.h"
#include "moe/base/status_macros.h"
#include "moe/tokenizer/chat_template.h"
#include "moe/tokenizer/tokenizer.h"

namespace conclave {
namespace {

constexpr absl::string_view kThoughtBegin = "<think>";

absl::Status CheckCalls(const ToolSupport& support, const v1::ChatPrompt& chat, bool offers) {
  if (offers && support.format == nullptr) {
    return Unsupported(absl::StrCat("chat.tools: ", support.status.message()));
  }
  const bool written_by_us = support.format != nullptr && support.format->header == CallHeader::kJson;
  for (int i = 0; i < chat.messages_size() && !support.shows_calls && !written_by_us; ++i) {
    if (chat.messages(i).tool_calls().empty() && chat.messages(i).role() != "tool") continue;
    return Unsupported(
        absl::StrCat("chat.messages[", i, "]: this model's chat template has no place for calls and their results; a "
                     "chat_template.jinja in its directory can have one"));
  }
  return absl::OkStatus();
}

// For a template that knows no calls: a turn with the calls as the model wrote them, results as words of the user.
ChatTurn InWords(const v1::ChatMessage& message, const ToolCallFormat& format) {
  if (message.role() == "tool") {
    return {"user", absl::StrCat("<tool_response>\n", message.content(), "\n</tool_response>")};
  }
  ChatTurn turn{message.role(), message.content(), message.name()};
  turn.reasoning_content = message.reasoning_content();
  for (const v1::ToolCall& call : message.tool_calls()) {
    absl::StrAppend(&turn.content, turn.content.empty() ? "" : "\n", CallBeginning(format, call.name(), 0), " ",
                    call.arguments(), "}\n", format.call_end);
  }
  return turn;
}

std::vector<ChatTurn> TurnsOf(const v1::ChatPrompt& chat, const ToolSupport& support) {
  std::vector<ChatTurn> turns;
  turns.reserve(static_cast<size_t>(chat.messages_size()));
  for (const v1::ChatMessage& message : chat.messages()) {
    if (!support.shows_calls && support.format != nullptr) {
      turns.push_back(InWords(message, *support.format));
      continue;
    }
    ChatTurn& turn = turns.emplace_back(ChatTurn{message.role(), message.content(), message.name()});
    turn.tool_call_id = message.tool_call_id();
    turn.reasoning_content = message.reasoning_content();
    if (support.words_apart && !message.tool_calls().empty() && !message.content().empty()) {
      turns.push_back({message.role(), "", message.name()});
    }
    for (const v1::ToolCall& call : message.tool_calls()) {
      turns.back().tool_calls.push_back({call.id(), call.name(), call.arguments()});
    }
  }
  return turns;
}

// Continues the prompt with the beginning of a call, where one is asked for.
void ForceCall(const v1::ChatPrompt& chat, bool in_thought, std::vector<PromptPiece>& pieces, Prompt& prompt) {
  const v1::ToolChoice& choice = chat.tool_choice();
  std::string function = choice.function();
  if (choice.mode() != v1::ToolChoice::MODE_FUNCTION) {
    if (choice.mode() != v1::ToolChoice::MODE_REQUIRED) return;
    // Of one function there is nothing to choose.
    function = chat.tools_size() == 1 ? FunctionName(chat.tools(0)) : "";
  }
  int calls_before = 0;
  for (const v1::ChatMessage& message : chat.messages()) calls_before += message.tool_calls_size();
  prompt.call_beginning = CallBeginning(*prompt.calls.format, function, calls_before);
  prompt.calls.begins_in_thought = false;
  pieces.push_back({absl::StrCat(in_thought ? "</think>\n\n" : "", prompt.call_beginning), /*from_template=*/true});
}

absl::StatusOr<Prompt> ChatPromptOf(const ServedModel& model, const v1::ChatPrompt& chat) {
  if (model.chat_template == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat("chat: this model takes text and tokens only: ", model.chat_status.message()));
  }
  const bool offers = !chat.tools().empty() && chat.tool_choice().mode() != v1::ToolChoice::MODE_NONE;
  RETURN_IF_ERROR(CheckCalls(model.tools, chat, offers));
  ChatTools tools;
  tools.arguments_as_mappings = model.tools.arguments_as_mappings;
  if (offers) {
    tools.definitions.assign(chat.tools().begin(), chat.tools().end());
    tools.preamble = model.tools.preamble;
  }
  absl::StatusOr<std::vector<PromptPiece>> pieces =
      model.chat_template->Render(TurnsOf(chat, model.tools), /*add_generation_prompt=*/true, tools);
  if (!pieces.ok()) {
    return absl::Status(pieces.status().code(), absl::StrCat("chat.messages: ", pieces.status().message()));
  }
  Prompt prompt;
  if (offers) {
    const bool in_thought =
        !pieces->empty() && absl::EndsWith(absl::StripAsciiWhitespace(pieces->back().text), kThoughtBegin);
    const bool single = chat.single_tool_call() || chat.tool_choice().mode() == v1::ToolChoice::MODE_FUNCTION;
    prompt.calls = {model.tools.format, single, in_thought};
    ForceCall(chat, in_thought, *pieces, prompt);
  }
  prompt.ids = EncodePieces(*model.tokenizer, *pieces);
  return prompt;
}

}  // namespace

absl::StatusOr<Prompt> MakePrompt(const ServedModel& model, const v1::GenerateRequest& request) {
  if (request.has_chat()) return ChatPromptOf(model, request.chat());
  Prompt prompt;
  if (request.has_text()) {
    prompt.ids = EncodePrompt(*model.tokenizer, request.text());
  } else {
    prompt.ids.assign(request.tokens().ids().begin(), request.tokens().ids().end());
  }
  return prompt;
}

absl::StatusOr<std::vector<int32_t>> PromptIds(const ServedModel& model, const v1::TokenizeRequest& request) {
  if (request.has_chat()) {
    ASSIGN_OR_RETURN(Prompt prompt, ChatPromptOf(model, request.chat()));
    return std::move(prompt.ids);
  }
  if (request.without_bos()) return model.tokenizer->Encode(request.text(), SpecialText::kAsTokens);
  return EncodePrompt(*model.tokenizer, request.text());
}

absl::string_view PromptField(const v1::GenerateRequest& request) {
  if (request.has_chat()) return "chat.messages";
  return request.has_tokens() ? "tokens.ids" : "text";
}

}  // namespace conclave
