// Writes a tokenizer for models with random weights, which have no vocabulary of their own.
#ifndef CONCLAVE_MOE_TOKENIZER_BYTE_TOKENIZER_WRITER_H_
#define CONCLAVE_MOE_TOKENIZER_BYTE_TOKENIZER_WRITER_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"

namespace conclave {

// Writes DIRECTORY/tokenizer.json and DIRECTORY/tokenizer_config.json: byte-level BPE with DeepSeek-V3's split patterns
// and exactly `vocab` tokens (the 256 bytes, special tokens, and merges of letters for the rest), BOS and EOS at the
// ids given, and a chat template of DeepSeek's form. The same arguments give the same bytes.
// INVALID_ARGUMENT: vocab below 259 or above limits::kVocabMax, bos_id or eos_id outside [0, vocab) or equal, a
// directory that cannot be written to.
absl::Status WriteByteTokenizer(const std::string& directory, int vocab, int32_t bos_id, int32_t eos_id);

}  // namespace conclave

#endif  // CONCLAVE_MOE_TOKENIZER_BYTE_TOKENIZER_WRITER_H_
