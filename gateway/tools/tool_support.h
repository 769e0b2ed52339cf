// What a model's chat template does with functions: whether it tells the model of them, in which form it shows calls,
// and so in which form the model will write its own.
#ifndef CONCLAVE_GATEWAY_TOOLS_TOOL_SUPPORT_H_
#define CONCLAVE_GATEWAY_TOOLS_TOOL_SUPPORT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "gateway/tools/tool_call_format.h"
#include "moe/tokenizer/chat_template.h"
#include "moe/tokenizer/tokenizer.h"

namespace conclave {

// Immutable once served.
struct ToolSupport {
  const ToolCallFormat* format = nullptr;  // null: functions are refused, and `status` says why
  absl::Status status = absl::InvalidArgumentError("this model has no chat template");
  std::string preamble;                // empty: the template tells the model of functions itself
  bool shows_calls = false;            // the template shows calls and their results
  bool words_apart = false;            // it shows no calls of a message that has words too
  bool arguments_as_mappings = false;  // it wants the arguments of calls as mappings
  std::vector<int32_t> marker_ids;     // special tokens that spell the form's markers, ascending
};

// INVALID_ARGUMENT: --tool-call-parser must be auto, none or the name of a form.
absl::Status ValidateToolCallParser(absl::string_view parser);

// Tries the template out. `parser`: auto (the form that the template shows), none, or the name of a form. A null
// `chat_template` has no support. REQUIRES: ValidateToolCallParser accepts `parser`
ToolSupport FindToolSupport(const ChatTemplate* chat_template, const Tokenizer& tokenizer, absl::string_view parser);

}  // namespace conclave

#endif  // CONCLAVE_GATEWAY_TOOLS_TOOL_SUPPORT_H_
