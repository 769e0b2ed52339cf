// How models write calls of functions into their answers: the forms that their chat templates show them.
#ifndef CONCLAVE_GATEWAY_TOOLS_TOOL_CALL_FORMAT_H_
#define CONCLAVE_GATEWAY_TOOLS_TOOL_CALL_FORMAT_H_

#include <string>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace conclave {

// What stands between the beginning of a call and its arguments.
enum class CallHeader {
  kTypeAndName,  // "function", the separator, the name
  kName,
  kId,    // "functions.NAME:INDEX", which is the call's id; INDEX counts the conversation's calls
  kJson,  // none: the call is an object that has "name" and "arguments"
};

// One form. All texts are as the tokenizer's tokens spell them.
struct ToolCallFormat {
  absl::string_view name;  // of the flag
  CallHeader header;
  absl::string_view section_begin, section_end;  // around all calls of an answer; empty: none
  absl::string_view call_begin, call_end;
  absl::string_view separator;   // of kTypeAndName
  absl::string_view header_end;  // between header and arguments; empty with kJson
  // A Jinja template that tells a model of `tools` and of this form, where its own chat template does not.
  absl::string_view preamble;
};

// All that are known.
absl::Span<const ToolCallFormat> ToolCallFormats();
// Null: there is none of this name.
const ToolCallFormat* FindToolCallFormat(absl::string_view name);

// How an answer begins that calls `function`, up to where the arguments come; with an empty `function`, up to where the
// model names one. `calls_before`: in the conversation.
std::string CallBeginning(const ToolCallFormat& format, absl::string_view function, int calls_before);

// The name of a function as requests may give it: 1 to 64 of a-z, A-Z, 0-9, underscore and dash.
bool IsFunctionName(absl::string_view name);

}  // namespace conclave

#endif  // CONCLAVE_GATEWAY_TOOLS_TOOL_CALL_FORMAT_H_
