// The escapes of Python's string literals, which Jinja's follow.
#ifndef CONCLAVE_MOE_TOKENIZER_JINJA_STRING_LITERAL_H_
#define CONCLAVE_MOE_TOKENIZER_JINJA_STRING_LITERAL_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace conclave::jinja {

// What stands between the quotes, with \n, \t, \\, \xHH, \uHHHH, octal escapes and so on resolved; a backslash before
// any other character stays. INVALID_ARGUMENT: too few hexadecimal digits, no code point, \N{name}.
absl::StatusOr<std::string> UnescapeString(absl::string_view literal);

// Appends a code point as UTF-8.
void AppendUtf8(uint32_t code_point, std::string* out);

}  // namespace conclave::jinja

#endif  // CONCLAVE_MOE_TOKENIZER_JINJA_STRING_LITERAL_H_
