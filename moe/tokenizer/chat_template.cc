#include "moe/tokenizer/chat_template.h"

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "moe/base/limits.h"
#include "moe/base/status_macros.h"
#include "moe/tokenizer/jinja/interpreter.h"
#include "moe/tokenizer/jinja/json.h"
#include "moe/tokenizer/jinja/parser.h"
#include "moe/tokenizer/json_file.h"
#include "moe/tokenizer/tokenizer_config.h"
#include "moe/tokenizer/utf8.h"

namespace conclave {
namespace {

using jinja::Arena;
using jinja::Value;

constexpr size_t kTemplateBytesMax = 512 << 10;
// One rendering holds every text that it computes on the way.
constexpr int64_t kArenaBytesMax = int64_t{256} << 20;
constexpr int64_t kPythonBytesMax = 1 << 20;

bool IsRole(absl::string_view role) {
  return role == "system" || role == "user" || role == "assistant" || role == "tool";
}

absl::Status CheckUtf8(const std::string& text, size_t turn, absl::string_view field) {
  if (IsUtf8(text)) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("messages[", turn, "].", field, " is not UTF-8"));
}

// Appends a text of ours that tells of tools to the last system message, or puts it before everything.
void AppendPreamble(jinja::Text preamble, jinja::List& messages, Arena* arena) {
  for (auto message = messages.rbegin(); message != messages.rend(); ++message) {
    if (message->dict->Find("role")->text->bytes() != "system") continue;
    jinja::Text content = *message->dict->Find("content")->text;
    if (content.size() > 0) content.Append("\n\n", /*from_template=*/true);
    content.Append(preamble);
    return message->dict->Set("content", arena->NewText(std::move(content)));
  }
  const Value message = arena->NewDict();
  message.dict->Set("role", arena->NewText("system", /*from_template=*/true));
  message.dict->Set("content", arena->NewText(std::move(preamble)));
  messages.insert(messages.begin(), message);
}

class JinjaTemplate final : public ChatTemplate {
 public:
  JinjaTemplate(absl::string_view source, jinja::Block block, const TokenizerConfig& config, std::string file,
                bool sort_tool_keys)
      : source_(source), block_(std::move(block)), file_(std::move(file)), sort_tool_keys_(sort_tool_keys) {
    const std::pair<const char*, const std::optional<std::string>*> tokens[] = {{"bos_token", &config.bos_token},
                                                                                {"eos_token", &config.eos_token},
                                                                                {"pad_token", &config.pad_token},
                                                                                {"unk_token", &config.unk_token}};
    for (const auto& [name, text] : tokens) {
      if (text->has_value()) special_tokens_.emplace_back(name, **text);
    }
  }

  absl::StatusOr<std::vector<PromptPiece>> Render(absl::Span<const ChatTurn> turns, bool add_generation_prompt,
                                                  const ChatTools& tools) const override;
  absl::string_view source() const override { return source_; }

 private:
  static absl::StatusOr<jinja::List> Messages(absl::Span<const ChatTurn> turns, const ChatTools& tools, Arena* arena);
  static absl::StatusOr<Value> ToolCalls(const ChatTurn& turn, size_t index, const ChatTools& tools, Arena* arena);
  // None where there are none.
  absl::StatusOr<Value> Tools(const ChatTools& tools, Arena* arena) const;

  const std::string source_;
  const jinja::Block block_;
  const std::string file_;
  const bool sort_tool_keys_;
  std::vector<std::pair<std::string, std::string>> special_tokens_;  // the variable's name, the token's text
};

absl::StatusOr<Value> JinjaTemplate::ToolCalls(const ChatTurn& turn, size_t index, const ChatTools& tools,
                                               Arena* arena) {
  jinja::List calls;
  for (const ChatToolCall& call : turn.tool_calls) {
    for (const std::string* text : {&call.id, &call.name, &call.arguments}) {
      RETURN_IF_ERROR(CheckUtf8(*text, index, "tool_calls"));
    }
    const Value function = arena->NewDict();
    function.dict->Set("name", arena->NewText(call.name, /*from_template=*/false));
    Value arguments = arena->NewText(call.arguments, /*from_template=*/false);
    if (tools.arguments_as_mappings) {
      const absl::StatusOr<Value> parsed = jinja::ParseJson(call.arguments, /*sort_keys=*/false, arena);
      if (parsed.ok() && parsed->kind == jinja::Kind::kDict) arguments = *parsed;
    }
    function.dict->Set("arguments", arguments);
    const Value entry = arena->NewDict();
    entry.dict->Set("id", arena->NewText(call.id, /*from_template=*/false));
    entry.dict->Set("type", arena->NewText("function", /*from_template=*/true));
    entry.dict->Set("function", function);
    calls.push_back(entry);
  }
  return arena->NewList(std::move(calls));
}

absl::StatusOr<jinja::List> JinjaTemplate::Messages(absl::Span<const ChatTurn> turns, const ChatTools& tools,
                                                    Arena* arena) {
  if (turns.empty()) return absl::InvalidArgumentError("messages is empty; a conversation has at least one");
  jinja::List messages;
  for (size_t i = 0; i < turns.size(); ++i) {
    const ChatTurn& turn = turns[i];
    if (!IsRole(turn.role)) {
      return absl::InvalidArgumentError(absl::StrCat("messages[", i, "].role is not system, user, assistant or tool"));
    }
    RETURN_IF_ERROR(CheckUtf8(turn.name, i, "name"));
    RETURN_IF_ERROR(CheckUtf8(turn.content, i, "content"));
    RETURN_IF_ERROR(CheckUtf8(turn.tool_call_id, i, "tool_call_id"));
    RETURN_IF_ERROR(CheckUtf8(turn.reasoning_content, i, "reasoning_content"));
    const Value message = arena->NewDict();
    message.dict->Set("role", arena->NewText(turn.role, /*from_template=*/true));
    const bool only_calls = turn.content.empty() && !turn.tool_calls.empty();
    message.dict->Set("content",
                      only_calls ? Value::None() : arena->NewText(turn.content, /*from_template=*/false));
    if (!turn.name.empty()) message.dict->Set("name", arena->NewText(turn.name, /*from_template=*/false));
    if (!turn.reasoning_content.empty()) {
      message.dict->Set("reasoning_content", arena->NewText(turn.reasoning_content, /*from_template=*/false));
    }
    if (!turn.tool_calls.empty()) {
      ASSIGN_OR_RETURN(const Value calls, ToolCalls(turn, i, tools, arena));
      message.dict->Set("tool_calls", calls);
    }
    if (!turn.tool_call_id.empty()) {
      message.dict->Set("tool_call_id", arena->NewText(turn.tool_call_id, /*from_template=*/false));
    }
    messages.push_back(message);
  }
  return messages;
}

absl::StatusOr<Value> JinjaTemplate::Tools(const ChatTools& tools, Arena* arena) const {
  if (tools.definitions.empty()) return Value::None();
  jinja::List list;
  for (size_t i = 0; i < tools.definitions.size(); ++i) {
    absl::StatusOr<Value> tool = jinja::ParseJson(tools.definitions[i], sort_tool_keys_, arena);
    if (!tool.ok()) return absl::InvalidArgumentError(absl::StrCat("tools[", i, "]: ", tool.status().message()));
    list.push_back(*tool);
  }
  return arena->NewList(std::move(list));
}

absl::StatusOr<std::vector<PromptPiece>> JinjaTemplate::Render(absl::Span<const ChatTurn> turns,
                                                               bool add_generation_prompt,
                                                               const ChatTools& tools) const {
  Arena arena(kArenaBytesMax);
  ASSIGN_OR_RETURN(jinja::List messages, Messages(turns, tools, &arena));
  ASSIGN_OR_RETURN(const Value definitions, Tools(tools, &arena));
  if (!tools.preamble.empty()) {
    ASSIGN_OR_RETURN(const jinja::Block block, jinja::ParseTemplate(tools.preamble));
    jinja::Scope* scope = arena.NewScope(nullptr);
    scope->Set("tools", definitions);
    jinja::Text preamble;
    RETURN_IF_ERROR(jinja::Interpreter(&arena).Render(block, scope, &preamble));
    AppendPreamble(std::move(preamble), messages, &arena);
  }
  // The variables that transformers' apply_chat_template gives to a template.
  jinja::Scope* scope = arena.NewScope(nullptr);
  for (const auto& [name, text] : special_tokens_) scope->Set(name, arena.NewText(text, /*from_template=*/true));
  scope->Set("messages", arena.NewList(std::move(messages)));
  scope->Set("tools", definitions);
  scope->Set("documents", Value::None());
  scope->Set("add_generation_prompt", Value::Bool(add_generation_prompt));
  jinja::Text text;
  const absl::Status status = jinja::Interpreter(&arena).Render(block_, scope, &text);
  if (!status.ok()) return FileError(file_, absl::StrCat("chat_template, ", std::string(status.message())));
  std::vector<PromptPiece> pieces;
  size_t begin = 0;
  for (const jinja::Text::Run& run : text.runs()) {
    pieces.push_back({text.bytes().substr(begin, run.end - begin), run.from_template});
    begin = run.end;
  }
  return pieces;
}

absl::StatusOr<std::unique_ptr<ChatTemplate>> Parse(absl::string_view source, const TokenizerConfig& config,
                                                    const std::string& file, bool sort_tool_keys) {
  if (source.size() > kTemplateBytesMax) {
    return FileError(file, absl::StrCat("the chat template has ", source.size(), " bytes, more than the ",
                                        kTemplateBytesMax, " supported"));
  }
  if (!IsUtf8(source)) return FileError(file, "the chat template is not UTF-8");
  absl::StatusOr<jinja::Block> block = jinja::ParseTemplate(source);
  if (!block.ok()) {
    return FileError(file, absl::StrCat("chat_template, ", std::string(block.status().message())));
  }
  return std::make_unique<JinjaTemplate>(source, *std::move(block), config, file, sort_tool_keys);
}

// Kimi-K2's tokenizer, a Python class that comes with the model, sorts the keys of tools before it renders them.
bool SortsToolKeys(const std::string& directory) {
  const auto python = ReadFileUpTo(absl::StrCat(directory, "/tokenization_kimi.py"), kPythonBytesMax);
  return python.ok() && absl::StrContains(*python, "deep_sort_dict(tools)");
}

}  // namespace

absl::StatusOr<std::unique_ptr<ChatTemplate>> ChatTemplate::Load(const std::string& directory) {
  ASSIGN_OR_RETURN(const TokenizerConfig config, ReadTokenizerConfig(directory));
  // Where both are there, transformers takes the file of its own.
  const bool sort_tool_keys = SortsToolKeys(directory);
  const std::string template_file = absl::StrCat(directory, "/chat_template.jinja");
  const absl::StatusOr<std::string> source = ReadFileUpTo(template_file, kTemplateBytesMax);
  if (source.ok()) return Parse(*source, config, template_file, sort_tool_keys);
  if (!absl::IsNotFound(source.status())) return source.status();
  const std::string config_file = absl::StrCat(directory, "/tokenizer_config.json");
  if (config.chat_template.has_value()) {
    return Parse(*config.chat_template, config, config_file, sort_tool_keys);
  }
  return absl::NotFoundError(absl::StrCat(
      directory, " has no chat template: neither chat_template.jinja nor a chat_template in tokenizer_config.json"));
}

absl::StatusOr<std::unique_ptr<ChatTemplate>> ChatTemplate::LoadFromJson(absl::string_view tokenizer_config_json) {
  const char* file = "tokenizer_config.json";
  ASSIGN_OR_RETURN(const TokenizerConfig config, ParseTokenizerConfig(tokenizer_config_json, file));
  if (!config.chat_template.has_value()) return absl::NotFoundError(absl::StrCat(file, ": chat_template is missing"));
  return Parse(*config.chat_template, config, file, /*sort_tool_keys=*/false);
}

std::vector<int32_t> EncodePieces(const Tokenizer& tokenizer, absl::Span<const PromptPiece> pieces) {
  std::vector<TextSpan> spans;
  spans.reserve(pieces.size());
  for (const PromptPiece& piece : pieces) {
    spans.push_back({piece.text, piece.from_template ? SpecialText::kAsTokens : SpecialText::kAsPlainText});
  }
  return tokenizer.EncodeSpans(spans);
}

}  // namespace conclave
