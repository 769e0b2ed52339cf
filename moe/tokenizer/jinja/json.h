// JSON as Python's json module writes and reads it: what transformers gives to a chat template as `tools`, and what its
// tojson makes of values.
#ifndef CONCLAVE_MOE_TOKENIZER_JINJA_JSON_H_
#define CONCLAVE_MOE_TOKENIZER_JINJA_JSON_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "moe/tokenizer/jinja/text.h"
#include "moe/tokenizer/jinja/value.h"

namespace conclave::jinja {

// The arguments of json.dumps; ensure_ascii is False.
struct JsonStyle {
  int indent = -1;  // spaces a level; below 0: None, all in one line
  std::string item_separator = ", ";
  std::string key_separator = ": ";
};

// json.dumps(value). INVALID_ARGUMENT: more than `bytes_max`, or something that has no JSON.
absl::StatusOr<Text> DumpJson(const Value& value, const JsonStyle& style, int64_t bytes_max);

// json.loads(text), all of it a user's words: objects keep the order of their keys (`sort_keys`: by code points, at
// every level). Whole numbers beyond 64 bits become floating point, where Python keeps their digits. INVALID_ARGUMENT
// says what is wrong: not JSON, not UTF-8, a key twice in one object, nested deeper than limits::kJsonDepthMax, more
// than the arena takes. Stack use is bounded.
absl::StatusOr<Value> ParseJson(absl::string_view text, bool sort_keys, Arena* arena);

}  // namespace conclave::jinja

#endif  // CONCLAVE_MOE_TOKENIZER_JINJA_JSON_H_
