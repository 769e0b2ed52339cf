// UTF-8 by the rules of the Unicode standard: no overlong forms, no surrogates, nothing above U+10FFFF.
#ifndef CONCLAVE_MOE_TOKENIZER_UTF8_H_
#define CONCLAVE_MOE_TOKENIZER_UTF8_H_

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"

namespace conclave {

enum class Utf8Form { kCharacter, kIncomplete, kInvalid };

// What stands at the start of a text. An invalid sequence is as long as the longest prefix that some character
// begins with (the Unicode standard's "maximal subpart"), and at least one byte.
struct Utf8Step {
  Utf8Form form;
  int bytes;
  uint32_t code_point;  // of a character, else 0
};

// REQUIRES: !text.empty()
Utf8Step NextUtf8(absl::string_view text);

// Whether all of `text` is well-formed UTF-8.
bool IsUtf8(absl::string_view text);
// Number of characters. REQUIRES: IsUtf8(text)
int64_t Utf8Length(absl::string_view text);
// Unicode's White_Space property.
bool IsUnicodeSpace(uint32_t code_point);
// Python's str.isspace for one character: the same and U+001C to U+001F.
bool IsPythonSpace(uint32_t code_point);

// Appends `bytes` to `out` with U+FFFD in place of each invalid sequence. Returns how many bytes at the end form the
// start of a character that may still be completed; these are not appended, unless `final` turns them into U+FFFD.
size_t AppendLossyUtf8(absl::string_view bytes, bool final, std::string* out);

}  // namespace conclave

#endif  // CONCLAVE_MOE_TOKENIZER_UTF8_H_
