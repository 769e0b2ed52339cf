// The split patterns of tokenizers are written for Oniguruma (Hugging Face) or Rust's regex crate (tiktoken); PCRE2
// reads some of that syntax in another sense. This translates what the published patterns use and refuses the rest:
// a pattern that silently splits elsewhere would give a model tokens that it never saw.
#ifndef CONCLAVE_MOE_TOKENIZER_REGEX_SYNTAX_H_
#define CONCLAVE_MOE_TOKENIZER_REGEX_SYNTAX_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace conclave {

// What differs and is translated: \s and \S (PCRE2's contain U+180E), scripts such as \p{Han} (PCRE2 means Script
// Extensions by them), and class intersections `[A&&[^B]]` where A consists of general categories.
// INVALID_ARGUMENT: names the construct: \w and \b (other words), \h, nested classes, flags other than (?i), verbs…
absl::StatusOr<std::string> ToPcre2Syntax(absl::string_view pattern);

// A pattern that matches exactly `text`.
std::string QuoteForPcre2(absl::string_view text);

}  // namespace conclave

#endif  // CONCLAVE_MOE_TOKENIZER_REGEX_SYNTAX_H_
