// An added token as Hugging Face writes it, in tokenizer.json and in tokenizer_config.json.
#ifndef CONCLAVE_MOE_TOKENIZER_ADDED_TOKENS_JSON_H_
#define CONCLAVE_MOE_TOKENIZER_ADDED_TOKENS_JSON_H_

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "moe/tokenizer/added_tokens.h"

namespace conclave {

// Everything but the id. `where` names the entry in errors, such as "tokenizer.json: added_tokens[3]".
// INVALID_ARGUMENT: not an object, no content or too much of it, a member of another type, single_word.
absl::StatusOr<AddedToken> ParseAddedToken(const nlohmann::json& entry, const std::string& where);

// INVALID_ARGUMENT, beginning with `where`: not an integer within [0, limits::kVocabMax).
absl::StatusOr<int32_t> ParseTokenId(const nlohmann::json& id, const std::string& where);

}  // namespace conclave

#endif  // CONCLAVE_MOE_TOKENIZER_ADDED_TOKENS_JSON_H_
