// Python's string methods on texts that remember where they come from.
#ifndef CONCLAVE_MOE_TOKENIZER_JINJA_STRINGS_H_
#define CONCLAVE_MOE_TOKENIZER_JINJA_STRINGS_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "moe/tokenizer/jinja/value.h"

namespace conclave::jinja {

// Where `part` begins in `text` at or after `from`, in bytes; npos where it does not. Linear in the worst case too,
// unlike std::string::find.
size_t FindText(absl::string_view text, absl::string_view part, size_t from);
// str.split and str.rsplit; `separator` null means runs of white space, `limit` < 0 means no limit. INVALID_ARGUMENT:
// an empty separator; a long one for rsplit.
absl::StatusOr<List> Split(const Text& text, const Text* separator, int64_t limit, bool from_right, Arena* arena);
// str.strip, lstrip, rstrip; `characters` null means white space.
Text Strip(const Text& text, const Text* characters, bool left, bool right);
// str.replace; `limit` < 0 means all.
Text Replace(const Text& text, const Text& from, const Text& to, int64_t limit, Arena* arena);
// INVALID_ARGUMENT: letters outside ASCII, whose case Python would change too.
absl::StatusOr<Text> Upper(const Text& text);
absl::StatusOr<Text> Lower(const Text& text);
absl::StatusOr<Text> Capitalize(const Text& text);
// Where character `index` begins, in bytes; text.size() beyond the last. REQUIRES: index >= 0
size_t CharacterOffset(const Text& text, int64_t index);
// The byte offsets at which characters begin, and text.size() after them.
std::vector<size_t> CharacterOffsets(const Text& text);

}  // namespace conclave::jinja

#endif  // CONCLAVE_MOE_TOKENIZER_JINJA_STRINGS_H_
