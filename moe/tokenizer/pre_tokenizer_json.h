// The pre_tokenizer of a tokenizer.json.
#ifndef CONCLAVE_MOE_TOKENIZER_PRE_TOKENIZER_JSON_H_
#define CONCLAVE_MOE_TOKENIZER_PRE_TOKENIZER_JSON_H_

#include <nlohmann/json_fwd.hpp>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "moe/tokenizer/pre_tokenizer.h"

namespace conclave {

// Understands Sequence, Split (Regex or String, every behavior, invert), Digits, and ByteLevel, which must come last:
// without it the model would not be byte-level. INVALID_ARGUMENT names `file` and the member.
absl::StatusOr<PreTokenizer> ParsePreTokenizer(const nlohmann::json& value, absl::string_view file);

}  // namespace conclave

#endif  // CONCLAVE_MOE_TOKENIZER_PRE_TOKENIZER_JSON_H_
