// The parts of a request's JSON that are about functions. Internal to the translation.
#ifndef CONCLAVE_GATEWAY_HTTP_TOOL_FIELDS_H_
#define CONCLAVE_GATEWAY_HTTP_TOOL_FIELDS_H_

#include "absl/strings/string_view.h"
#include "conclave/v1/inference.pb.h"
#include "gateway/http/body_fields.h"

namespace conclave {

// tools, tool_choice and parallel_tool_calls; `body` is the text that the fields were read from. What definitions must
// be is not looked at here: the dispatcher does. Errors are left in `fields`.
void ReadTools(BodyFields& fields, absl::string_view body, v1::ChatPrompt& chat);
// The same where there is no chat: only what asks for nothing.
void ReadNoTools(BodyFields& fields);
// Of one message: tool_calls and tool_call_id.
void ReadToolCalls(BodyFields& message, v1::ChatMessage& turn);

}  // namespace conclave

#endif  // CONCLAVE_GATEWAY_HTTP_TOOL_FIELDS_H_
