// GPT-2's byte alphabet: each of the 256 bytes is written as one printable character, so that a vocabulary of byte
// strings fits into JSON. Printable Latin-1 bytes stand for themselves, the other 68 for U+0100 and up.
#ifndef CONCLAVE_MOE_TOKENIZER_BYTE_LEVEL_H_
#define CONCLAVE_MOE_TOKENIZER_BYTE_LEVEL_H_

#include <cstdint>
#include <optional>
#include <string>

#include "absl/strings/string_view.h"

namespace conclave {

// The character of a byte, as UTF-8.
std::string ByteLevelCharacter(uint8_t byte);
// The characters of all bytes of `bytes`.
std::string ToByteLevel(absl::string_view bytes);
// The bytes behind a token as it is spelled in the vocabulary; nothing where a character is not of the alphabet.
std::optional<std::string> FromByteLevel(absl::string_view token);

}  // namespace conclave

#endif  // CONCLAVE_MOE_TOKENIZER_BYTE_LEVEL_H_
