#include "gateway/tools/tool_support.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace conclave {
namespace {

constexpr char kProbeTool[] =
    R"({"type": "function", "function": {"name": "conclave_probe_tool", "description": "?", "parameters": {}}})";
constexpr char kProbeArguments[] = R"({"conclave_probe_key": 1})";

// What the template makes of a conversation; empty where it refuses it.
std::string Rendered(const ChatTemplate& chat_template, const std::vector<ChatTurn>& turns, const ChatTools& tools) {
  const auto pieces = chat_template.Render(turns, /*add_generation_prompt=*/true, tools);
  std::string text;
  if (pieces.ok()) {
    for (const PromptPiece& piece : *pieces) text += piece.text;
  }
  return text;
}

const ToolCallFormat* FormatOf(absl::string_view source) {
  // Both of DeepSeek's have the same tokens; V3 and R1 put the arguments into a fence.
  const bool fenced = absl::StrContains(source, "```json");
  // Other models write something else than JSON between these tags.
  const bool json = !absl::StrContains(source, "<arg_key>") && !absl::StrContains(source, "<function=");
  for (const ToolCallFormat& format : ToolCallFormats()) {
    // Kimi-K2's first template tells of functions and shows no calls.
    const bool declares = format.header == CallHeader::kId && absl::StrContains(source, "tool_declare<|im_middle|>");
    if (!absl::StrContains(source, format.call_begin) && !declares) continue;
    if (format.header == CallHeader::kTypeAndName && !fenced) continue;
    if (format.header == CallHeader::kJson && !json) continue;
    return &format;
  }
  return nullptr;
}

std::vector<int32_t> MarkerIds(const Tokenizer& tokenizer, const ToolCallFormat& format) {
  std::vector<int32_t> found;
  for (const absl::string_view marker : {format.section_begin, format.section_end, format.call_begin, format.call_end,
                                         format.separator, format.header_end}) {
    const std::vector<int32_t> ids = tokenizer.Encode(marker, SpecialText::kAsTokens);
    if (ids.size() == 1 && tokenizer.IsSpecial(ids.front())) found.push_back(ids.front());
  }
  std::sort(found.begin(), found.end());
  return found;
}

}  // namespace

absl::Status ValidateToolCallParser(absl::string_view parser) {
  if (parser == "auto" || parser == "none" || FindToolCallFormat(parser) != nullptr) return absl::OkStatus();
  std::string names = "auto, none";
  for (const ToolCallFormat& format : ToolCallFormats()) absl::StrAppend(&names, ", ", format.name);
  return absl::InvalidArgumentError(
      absl::StrCat("--tool-call-parser: is '", parser.substr(0, 64), "'; it must be one of ", names));
}

ToolSupport FindToolSupport(const ChatTemplate* chat_template, const Tokenizer& tokenizer, absl::string_view parser) {
  ToolSupport support;
  if (chat_template == nullptr) return support;
  ChatTools tools;
  const std::vector<ChatTurn> called = {
      {"user", "?"},
      {"assistant", "", "", {{"functions.f:0", "conclave_probe_call", kProbeArguments}}},
      {"tool", "conclave_probe_result", "", {}, "functions.f:0"}};
  const std::string text = Rendered(*chat_template, called, tools);
  // A template that wants mappings would show a string in quotes of its own, or refuse it.
  support.arguments_as_mappings = !absl::StrContains(text, kProbeArguments);
  tools.arguments_as_mappings = support.arguments_as_mappings;
  const std::string shown = support.arguments_as_mappings ? Rendered(*chat_template, called, tools) : text;
  // Kimi's shows the id in place of the name.
  support.shows_calls =
      absl::StrContains(shown, "conclave_probe_key") && absl::StrContains(shown, "conclave_probe_result");
  if (support.shows_calls) {
    std::vector<ChatTurn> with_words = called;
    with_words[1].content = "conclave_probe_words";
    support.words_apart = !absl::StrContains(Rendered(*chat_template, with_words, tools), "conclave_probe_key");
  }
  support.format = parser == "auto" ? FormatOf(chat_template->source()) : FindToolCallFormat(parser);
  if (support.format == nullptr) {
    support.status = absl::InvalidArgumentError(
        parser == "none" ? "this server was told not to take any (--tool-call-parser none)"
                         : "this model's chat template shows no form of calls that this server knows; where the model "
                           "was taught one, name it with --tool-call-parser");
    return support;
  }
  support.status = absl::OkStatus();
  support.marker_ids = MarkerIds(tokenizer, *support.format);
  tools.definitions = {kProbeTool};
  const bool told = absl::StrContains(Rendered(*chat_template, {{"user", "?"}}, tools), "conclave_probe_tool");
  if (!told) support.preamble = std::string(support.format->preamble);
  return support;
}

}  // namespace conclave
