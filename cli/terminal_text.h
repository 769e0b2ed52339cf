// Text of others on a terminal.
#ifndef CONCLAVE_CLI_TERMINAL_TEXT_H_
#define CONCLAVE_CLI_TERMINAL_TEXT_H_

#include <string>

#include "absl/strings/string_view.h"

namespace conclave {

// `text` (UTF-8, whole characters) with U+FFFD in the place of control characters other than line breaks and tabs: what
// a model writes must not move the cursor, set the title or answer questions in the user's name.
std::string WithoutControls(absl::string_view text);

}  // namespace conclave

#endif  // CONCLAVE_CLI_TERMINAL_TEXT_H_
