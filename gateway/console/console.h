// The console's files, within the binary. What they show stands in console.js.
#ifndef CONCLAVE_GATEWAY_CONSOLE_CONSOLE_H_
#define CONCLAVE_GATEWAY_CONSOLE_CONSOLE_H_

#include "absl/strings/string_view.h"

namespace conclave {

// One file of the console.
struct ConsoleFile {
  absl::string_view path;  // "/", "/console.js"
  absl::string_view content_type;
  absl::string_view content;
};

// Null: no such file.
const ConsoleFile* FindConsoleFile(absl::string_view path);

// What a browser may do with the page: nothing but load the console's own files and talk to this gateway.
inline constexpr char kConsoleSecurityPolicy[] =
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'";

}  // namespace conclave

#endif  // CONCLAVE_GATEWAY_CONSOLE_CONSOLE_H_
