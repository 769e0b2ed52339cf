#include "moe/tokenizer/chat_template.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "moe/base/limits.h"
#include "moe/base/status_macros.h"
#include "moe/tokenizer/jinja/interpreter.h"
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

class JinjaTemplate final : public ChatTemplate {
 public:
  JinjaTemplate(absl::string_view source, jinja::Block block, const TokenizerConfig& config, std::string file)
      : source_(source), block_(std::move(block)), file_(std::move(file)) {
    const std::pair<const char*, const std::optional<std::string>*> tokens[] = {{"bos_token", &config.bos_token},
                                                                                {"eos_token", &config.eos_token},
                                                                                {"pad_token", &config.pad_token},
                                                                                {"unk_token", &config.unk_token}};
    for (const auto& [name, text] : tokens) {
      if (text->has_value()) special_tokens_.emplace_back(name, **text);
    }
  }

  absl::StatusOr<std::vector<PromptPiece>> Render(absl::Span<const ChatTurn> turns,
                                                  bool add_generation_prompt) const override;
  absl::string_view source() const override { return source_; }

 private:
  static absl::StatusOr<Value> Messages(absl::Span<const ChatTurn> turns, Arena* arena);

  const std::string source_;
  const jinja::Block block_;
  const std::string file_;
  std::vector<std::pair<std::string, std::string>> special_tokens_;  // the variable's name, the token's text
};

absl::StatusOr<Value> JinjaTemplate::Messages(absl::Span<const ChatTurn> turns, Arena* arena) {
  if (turns.empty()) return absl::InvalidArgumentError("messages is empty; a conversation has at least one");
  jinja::List messages;
  for (size_t i = 0; i < turns.size(); ++i) {
    const std::string& role = turns[i].role;
    if (role != "system" && role != "user" && role != "assistant") {
      return absl::InvalidArgumentError(absl::StrCat("messages[", i, "].role is not system, user or assistant"));
    }
    if (!IsUtf8(turns[i].name)) {
      return absl::InvalidArgumentError(absl::StrCat("messages[", i, "].name is not UTF-8"));
    }
    if (!IsUtf8(turns[i].content)) {
      return absl::InvalidArgumentError(absl::StrCat("messages[", i, "].content is not UTF-8"));
    }
    const Value message = arena->NewDict();
    message.dict->Set("role", arena->NewText(role, /*from_template=*/true));
    message.dict->Set("content", arena->NewText(turns[i].content, /*from_template=*/false));
    if (!turns[i].name.empty()) {
      message.dict->Set("name", arena->NewText(turns[i].name, /*from_template=*/false));
    }
    messages.push_back(message);
  }
  return arena->NewList(std::move(messages));
}

absl::StatusOr<std::vector<PromptPiece>> JinjaTemplate::Render(absl::Span<const ChatTurn> turns,
                                                               bool add_generation_prompt) const {
  Arena arena(kArenaBytesMax);
  ASSIGN_OR_RETURN(const Value messages, Messages(turns, &arena));
  // The variables that transformers' apply_chat_template gives to a template.
  jinja::Scope* scope = arena.NewScope(nullptr);
  for (const auto& [name, text] : special_tokens_) scope->Set(name, arena.NewText(text, /*from_template=*/true));
  scope->Set("messages", messages);
  scope->Set("tools", Value::None());
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
                                                    const std::string& file) {
  if (source.size() > kTemplateBytesMax) {
    return FileError(file, absl::StrCat("the chat template has ", source.size(), " bytes, more than the ",
                                        kTemplateBytesMax, " supported"));
  }
  if (!IsUtf8(source)) return FileError(file, "the chat template is not UTF-8");
  absl::StatusOr<jinja::Block> block = jinja::ParseTemplate(source);
  if (!block.ok()) {
    return FileError(file, absl::StrCat("chat_template, ", std::string(block.status().message())));
  }
  return std::make_unique<JinjaTemplate>(source, *std::move(block), config, file);
}

}  // namespace

absl::StatusOr<std::unique_ptr<ChatTemplate>> ChatTemplate::Load(const std::string& directory) {
  ASSIGN_OR_RETURN(const TokenizerConfig config, ReadTokenizerConfig(directory));
  // Where both are there, transformers takes the file of its own.
  const std::string template_file = absl::StrCat(directory, "/chat_template.jinja");
  const absl::StatusOr<std::string> source = ReadFileUpTo(template_file, kTemplateBytesMax);
  if (source.ok()) return Parse(*source, config, template_file);
  if (!absl::IsNotFound(source.status())) return source.status();
  const std::string config_file = absl::StrCat(directory, "/tokenizer_config.json");
  if (config.chat_template.has_value()) return Parse(*config.chat_template, config, config_file);
  return absl::NotFoundError(absl::StrCat(
      directory, " has no chat template: neither chat_template.jinja nor a chat_template in tokenizer_config.json"));
}

absl::StatusOr<std::unique_ptr<ChatTemplate>> ChatTemplate::LoadFromJson(absl::string_view tokenizer_config_json) {
  const char* file = "tokenizer_config.json";
  ASSIGN_OR_RETURN(const TokenizerConfig config, ParseTokenizerConfig(tokenizer_config_json, file));
  if (!config.chat_template.has_value()) return absl::NotFoundError(absl::StrCat(file, ": chat_template is missing"));
  return Parse(*config.chat_template, config, file);
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
