// tokenizer.json, as Hugging Face tokenizers writes it, of a byte-level BPE model.
#ifndef CONCLAVE_MOE_TOKENIZER_TOKENIZER_JSON_H_
#define CONCLAVE_MOE_TOKENIZER_TOKENIZER_JSON_H_

#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "moe/tokenizer/bpe_tokenizer.h"

namespace conclave {

// `bos_token` is what tokenizer_config.json names: a post-processor that puts it before every text sets
// adds_bos_by_default. INVALID_ARGUMENT names `file` and the member that is wrong or not supported.
absl::StatusOr<BpeModel> ParseTokenizerJson(absl::string_view text, const std::optional<std::string>& bos_token,
                                            const std::string& file);

}  // namespace conclave

#endif  // CONCLAVE_MOE_TOKENIZER_TOKENIZER_JSON_H_
