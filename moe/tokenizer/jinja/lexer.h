// Cuts a Jinja template into tokens, with white space control as transformers asks for it: trim_blocks and
// lstrip_blocks are on, one newline at the end of the template is dropped.
#ifndef CONCLAVE_MOE_TOKENIZER_JINJA_LEXER_H_
#define CONCLAVE_MOE_TOKENIZER_JINJA_LEXER_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace conclave::jinja {

enum class TokenKind {
  kData,        // text between the tags
  kPrintBegin,  // {{
  kPrintEnd,    // }}
  kBlockBegin,  // {%
  kBlockEnd,    // %}
  kName,
  kString,  // text is the string itself, escapes resolved
  kInteger,
  kFloat,
  kOperator,
  kEnd,
};

// One token with the line it stands on.
struct Token {
  TokenKind kind;
  std::string text;
  int line;  // from 1
  int64_t integer = 0;
  double real = 0;
};

// Ends with a kEnd token. Comments are gone. INVALID_ARGUMENT names the line: a tag or string that is not closed, a
// character that has no meaning, a raw block.
absl::StatusOr<std::vector<Token>> Tokenize(absl::string_view source);

// "line 3: message", as INVALID_ARGUMENT.
absl::Status LineError(int line, absl::string_view message);

}  // namespace conclave::jinja

#endif  // CONCLAVE_MOE_TOKENIZER_JINJA_LEXER_H_
