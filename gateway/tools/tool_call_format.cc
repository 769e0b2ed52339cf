#include "gateway/tools/tool_call_format.h"

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"

namespace conclave {
namespace {

// The headings are those that DeepSeek's model cards document for V3.1; the rest is said in words of our own.
#define CONCLAVE_FUNCTIONS_OFFERED                                                       \
  "## Tools\nYou may call the following functions.\n"                                    \
  "{% for tool in tools %}\n"                                                            \
  "{{ '\\n### ' + tool.function.name + '\\nDescription: ' }}"                            \
  "{{ tool.function.description or 'none' }}"                                            \
  "{{ '\\n\\nParameters: ' }}{{ (tool.function.parameters or {}) | tojson }}{{ '\\n' }}" \
  "{% endfor %}\n"

constexpr absl::string_view kTypeAndNamePreamble = CONCLAVE_FUNCTIONS_OFFERED
    "{{ '\\n' }}To call functions, end your answer in exactly this form, where NAME is one of the names above and "
    "ARGUMENTS is a JSON object that fits the function's Parameters:\n"
    "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>NAME\n```json\nARGUMENTS\n```"
    "<｜tool▁call▁end｜><｜tool▁calls▁end｜>\n"
    "Further calls follow the first one, each on a line of its own from <｜tool▁call▁begin｜> to <｜tool▁call▁end｜>.";

constexpr absl::string_view kNamePreamble = CONCLAVE_FUNCTIONS_OFFERED
    "{{ '\\n' }}To call functions, end your answer in exactly this form, where NAME is one of the names above and "
    "ARGUMENTS is a JSON object that fits the function's Parameters:\n"
    "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>NAME<｜tool▁sep｜>ARGUMENTS<｜tool▁call▁end｜><｜tool▁calls▁end｜>\n"
    "Further calls follow the first one at once, each from <｜tool▁call▁begin｜> to <｜tool▁call▁end｜>.";

constexpr absl::string_view kIdPreamble = CONCLAVE_FUNCTIONS_OFFERED
    "{{ '\\n' }}To call functions, end your answer in exactly this form, where NAME is one of the names above, INDEX "
    "counts the calls of this conversation from 0, and ARGUMENTS is a JSON object that fits the function's "
    "Parameters:\n"
    "<|tool_calls_section_begin|><|tool_call_begin|>functions.NAME:INDEX<|tool_call_argument_begin|>ARGUMENTS"
    "<|tool_call_end|><|tool_calls_section_end|>";

constexpr absl::string_view kJsonPreamble = CONCLAVE_FUNCTIONS_OFFERED
    "{{ '\\n' }}To call functions, write for each call an object with the function's name and its arguments, which "
    "must fit the function's Parameters, in exactly this form:\n"
    "<tool_call>\n{\"name\": NAME, \"arguments\": ARGUMENTS}\n</tool_call>";

#undef CONCLAVE_FUNCTIONS_OFFERED

constexpr ToolCallFormat kFormats[] = {
    {"deepseek_v3", CallHeader::kTypeAndName, "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>", "<｜tool▁call▁begin｜>",
     "<｜tool▁call▁end｜>", "<｜tool▁sep｜>", "```json", kTypeAndNamePreamble},
    {"deepseek_v31", CallHeader::kName, "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>", "<｜tool▁call▁begin｜>",
     "<｜tool▁call▁end｜>", "", "<｜tool▁sep｜>", kNamePreamble},
    {"kimi_k2", CallHeader::kId, "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>", "<|tool_call_begin|>",
     "<|tool_call_end|>", "", "<|tool_call_argument_begin|>", kIdPreamble},
    {"hermes", CallHeader::kJson, "", "", "<tool_call>", "</tool_call>", "", "", kJsonPreamble},
};

}  // namespace

absl::Span<const ToolCallFormat> ToolCallFormats() { return kFormats; }

const ToolCallFormat* FindToolCallFormat(absl::string_view name) {
  for (const ToolCallFormat& format : kFormats) {
    if (format.name == name) return &format;
  }
  return nullptr;
}

std::string CallBeginning(const ToolCallFormat& format, absl::string_view function, int calls_before) {
  const std::string begin = absl::StrCat(format.section_begin, format.call_begin);
  // Beginnings end where tokens end: the model goes on with tokens that it would have written anyway.
  switch (format.header) {
    case CallHeader::kTypeAndName:
      if (function.empty()) return absl::StrCat(begin, "function", format.separator);
      return absl::StrCat(begin, "function", format.separator, function, "\n", format.header_end, "\n");
    case CallHeader::kName:
      return function.empty() ? begin : absl::StrCat(begin, function, format.header_end);
    case CallHeader::kId:
      return function.empty() ? begin
                              : absl::StrCat(begin, "functions.", function, ":", calls_before, format.header_end);
    case CallHeader::kJson:
      return function.empty() ? absl::StrCat(begin, "\n{\"name\":")
                              : absl::StrCat(begin, "\n{\"name\": \"", function, "\", \"arguments\":");
  }
  return begin;
}

bool IsFunctionName(absl::string_view name) {
  constexpr size_t kNameBytesMax = 64;
  if (name.empty() || name.size() > kNameBytesMax) return false;
  for (const char c : name) {
    if (!absl::ascii_isalnum(static_cast<unsigned char>(c)) && c != '_' && c != '-') return false;
  }
  return true;
}

}  // namespace conclave
