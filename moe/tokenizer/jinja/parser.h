// Jinja's grammar, as far as chat templates use it.
#ifndef CONCLAVE_MOE_TOKENIZER_JINJA_PARSER_H_
#define CONCLAVE_MOE_TOKENIZER_JINJA_PARSER_H_

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "moe/tokenizer/jinja/ast.h"

namespace conclave::jinja {

// INVALID_ARGUMENT names the line and the tag, filter, test, function or method that is wrong or not supported.
absl::StatusOr<Block> ParseTemplate(absl::string_view source);

}  // namespace conclave::jinja

#endif  // CONCLAVE_MOE_TOKENIZER_JINJA_PARSER_H_
