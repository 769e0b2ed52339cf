// Checks what a chat says of functions. Pure functions; INVALID_ARGUMENT starts with the field's name.
#ifndef CONCLAVE_GATEWAY_TOOLS_TOOL_VALIDATION_H_
#define CONCLAVE_GATEWAY_TOOLS_TOOL_VALIDATION_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "conclave/v1/inference.pb.h"

namespace conclave {

inline constexpr int kToolsMax = 128;
inline constexpr int64_t kToolBytesMax = 1 << 20;  // of all definitions together
inline constexpr int kCallIdBytesMax = 256;
inline constexpr int kCallsMax = 128;  // of one message

// chat.tools and chat.tool_choice: definitions in OpenAI's words, their names different, the one that must be called
// among them.
absl::Status ValidateTools(const v1::ChatPrompt& chat);
// The name in a definition that ValidateTools accepts.
std::string FunctionName(const std::string& tool);
// Calls of the assistant, and that each is answered by one message of the role tool right behind it.
absl::Status ValidateToolMessages(const v1::ChatPrompt& chat);

}  // namespace conclave

#endif  // CONCLAVE_GATEWAY_TOOLS_TOOL_VALIDATION_H_
