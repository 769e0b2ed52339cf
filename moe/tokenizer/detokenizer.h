// Ids to text as they come: never half a character.
#ifndef CONCLAVE_MOE_TOKENIZER_DETOKENIZER_H_
#define CONCLAVE_MOE_TOKENIZER_DETOKENIZER_H_

#include <string>

#include "moe/tokenizer/tokenizer.h"

namespace conclave {

// One per stream. The concatenation of all results equals Tokenizer::Decode of all ids (special tokens left out).
class Detokenizer {
 public:
  explicit Detokenizer(const Tokenizer* tokenizer) : tokenizer_(tokenizer) {}
  // The text that became certain with `id`; empty while a character is incomplete. Bytes that can never become a
  // character turn into U+FFFD. REQUIRES: 0 <= id < vocab
  std::string Append(int32_t id);
  // What is left at the end: an incomplete character becomes U+FFFD.
  std::string Flush();

 private:
  const Tokenizer* tokenizer_;
  std::string pending_;  // at most three bytes of an incomplete character
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_TOKENIZER_DETOKENIZER_H_
