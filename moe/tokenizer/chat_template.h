// Renders a conversation with the model's own chat template (Jinja, from tokenizer_config.json or chat_template.jinja).
#ifndef CONCLAVE_MOE_TOKENIZER_CHAT_TEMPLATE_H_
#define CONCLAVE_MOE_TOKENIZER_CHAT_TEMPLATE_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "moe/tokenizer/tokenizer.h"

namespace conclave {

// A call of a function that the model asked for. All of it UTF-8.
struct ChatToolCall {
  std::string id;
  std::string name;
  std::string arguments;  // JSON, as the model wrote it
};

// One message of a conversation.
struct ChatTurn {
  std::string role;     // "system", "user", "assistant" or "tool"
  std::string content;  // UTF-8
  std::string name = {};  // UTF-8: who speaks, for templates that tell the model; empty: not said
  std::vector<ChatToolCall> tool_calls = {};  // of the assistant; beside them an empty content is none at all
  std::string tool_call_id = {};              // of a tool: which call this is the result of
  std::string reasoning_content = {};         // of the assistant: what it thought, for templates that show it
};

// What the model may call, and how its template is told.
struct ChatTools {
  // {"type": "function", "function": {…}} each, as JSON; templates see their keys in this order.
  std::vector<std::string> definitions;
  // A template of ours that tells the model of `tools`, for models whose own does not: its text stands at the end of
  // the last system message. Empty: the model's own template does it.
  std::string preamble;
  // Arguments of calls reach the template as mappings where they are JSON objects, else as the text they are.
  bool arguments_as_mappings = false;
};

// A stretch of the rendered prompt. Special tokens count in text of the template, never in a user's words.
struct PromptPiece {
  std::string text;
  bool from_template = true;
};

// Immutable after Load, so thread-safe.
class ChatTemplate {
 public:
  // NOT_FOUND: the model has no chat template. INVALID_ARGUMENT: the template uses something that we cannot run; the
  // message names it and its line.
  static absl::StatusOr<std::unique_ptr<ChatTemplate>> Load(const std::string& directory);
  // The same from the contents of a tokenizer_config.json.
  static absl::StatusOr<std::unique_ptr<ChatTemplate>> LoadFromJson(absl::string_view tokenizer_config_json);
  virtual ~ChatTemplate() = default;
  // INVALID_ARGUMENT: no messages, an unknown role, a definition that is no JSON, or the template's own
  // raise_exception.
  virtual absl::StatusOr<std::vector<PromptPiece>> Render(absl::Span<const ChatTurn> turns, bool add_generation_prompt,
                                                          const ChatTools& tools) const = 0;
  // The same without tools.
  absl::StatusOr<std::vector<PromptPiece>> Render(absl::Span<const ChatTurn> turns, bool add_generation_prompt) const {
    return Render(turns, add_generation_prompt, ChatTools());
  }
  // The template as its authors wrote it.
  virtual absl::string_view source() const = 0;
};

// The ids of a rendered conversation: pieces of the template with special tokens, the others as plain text. Adjacent
// pieces are tokenised together where no special token stands between them, as one string would be.
std::vector<int32_t> EncodePieces(const Tokenizer& tokenizer, absl::Span<const PromptPiece> pieces);

}  // namespace conclave

#endif  // CONCLAVE_MOE_TOKENIZER_CHAT_TEMPLATE_H_
