// A tokenizer small enough to read: the 256 bytes, three merged tokens, and a few added ones. For tests only.
#ifndef CONCLAVE_MOE_TOKENIZER_TINY_TOKENIZER_FOR_TEST_H_
#define CONCLAVE_MOE_TOKENIZER_TINY_TOKENIZER_FOR_TEST_H_

#include <cstdint>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "moe/tokenizer/tokenizer.h"

namespace conclave {

// The ids of single bytes are the bytes themselves.
inline constexpr int32_t kTinyEnd = 256;    // <|end|>, special
inline constexpr int32_t kTinyThink = 257;  // <think>, added but not special
inline constexpr int32_t kTinyHe = 258, kTinyHel = 259, kTinyEl = 260;

// tokenizer.json's "model", and the whole file.
nlohmann::json TinyModel();
nlohmann::json TinyTokenizerJson();

// The file with some of its top-level members replaced; the test fails where it does not load.
std::unique_ptr<Tokenizer> TinyTokenizer(const std::map<std::string, nlohmann::json>& replaced = {},
                                         const std::string& config = "");

// An empty directory of this name below the test's own.
std::string FreshDirectory(const std::string& name);

}  // namespace conclave

#endif  // CONCLAVE_MOE_TOKENIZER_TINY_TOKENIZER_FOR_TEST_H_
