// tiktoken.model, as Kimi-K2 and Moonlight publish it: one token a line, its bytes in base64 and its rank, which is
// also its id. The 256 ids after the base vocabulary are special tokens.
#ifndef CONCLAVE_MOE_TOKENIZER_TIKTOKEN_H_
#define CONCLAVE_MOE_TOKENIZER_TIKTOKEN_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "moe/tokenizer/bpe_tokenizer.h"
#include "moe/tokenizer/tokenizer_config.h"

namespace conclave {

// The special tokens take their names from `config.added_tokens`; the others are "<|reserved_token_ID|>".
// INVALID_ARGUMENT names `file` and the line: not base64, ranks that are not 0 … n-1 in some order, a token twice.
absl::StatusOr<BpeModel> ParseTiktoken(absl::string_view text, const TokenizerConfig& config, const std::string& file);

}  // namespace conclave

#endif  // CONCLAVE_MOE_TOKENIZER_TIKTOKEN_H_
