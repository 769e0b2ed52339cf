// How Kimi's tokenizer cuts long texts before it encodes them.
#ifndef CONCLAVE_MOE_TOKENIZER_TIKTOKEN_CHUNKS_H_
#define CONCLAVE_MOE_TOKENIZER_TIKTOKEN_CHUNKS_H_

#include <cstddef>
#include <vector>

#include "absl/strings/string_view.h"

namespace conclave {

// The byte offsets at which the chunks of `text` end, ascending; the last one is text.size(). Chunks have at most
// 400,000 characters, and at most 25,000 in a row that are all white space or all not (Moonshot's
// tokenization_kimi.py: TIKTOKEN_MAX_ENCODE_CHARS, MAX_NO_WHITESPACES_CHARS). Neither words nor special tokens run
// across chunks, so that leaving this out would give such texts other ids than the model was trained with.
std::vector<size_t> TiktokenChunkEnds(absl::string_view text);

}  // namespace conclave

#endif  // CONCLAVE_MOE_TOKENIZER_TIKTOKEN_CHUNKS_H_
