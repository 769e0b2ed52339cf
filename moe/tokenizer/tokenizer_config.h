// tokenizer_config.json: which tokens begin and end a text, and the chat template.
#ifndef CONCLAVE_MOE_TOKENIZER_TOKENIZER_CONFIG_H_
#define CONCLAVE_MOE_TOKENIZER_TOKENIZER_CONFIG_H_

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "moe/tokenizer/added_tokens.h"

namespace conclave {

struct TokenizerConfig {
  std::optional<std::string> bos_token, eos_token, pad_token, unk_token;  // the tokens' text
  std::optional<bool> add_bos_token;
  std::string tokenizer_class;               // empty where absent
  std::vector<AddedToken> added_tokens;      // added_tokens_decoder, ascending by id
  std::optional<std::string> chat_template;  // of a list of templates, the one named "default"
};

// `text` empty stands for a model that has no such file. `file` is how errors name it. INVALID_ARGUMENT: the member
// that cannot be understood.
absl::StatusOr<TokenizerConfig> ParseTokenizerConfig(absl::string_view text, absl::string_view file);

// Reads DIRECTORY/tokenizer_config.json; the defaults where there is none.
absl::StatusOr<TokenizerConfig> ReadTokenizerConfig(const std::string& directory);

}  // namespace conclave

#endif  // CONCLAVE_MOE_TOKENIZER_TOKENIZER_CONFIG_H_
