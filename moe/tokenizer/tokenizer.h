// Text to token ids and back, from the files of a model directory.
#ifndef CONCLAVE_MOE_TOKENIZER_TOKENIZER_H_
#define CONCLAVE_MOE_TOKENIZER_TOKENIZER_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace conclave {

// Whether text such as "<|end|>" inside the input becomes the special token or stays plain text.
// Under kAsPlainText words that a vocabulary added without meaning to steer the model ("ö" in DeepSeek-V2) are still
// found.
enum class SpecialText { kAsTokens, kAsPlainText };

// A stretch of a longer text with its own rule for special tokens.
struct TextSpan {
  absl::string_view text;
  SpecialText special;
};

// Immutable after Load, so thread-safe.
class Tokenizer {
 public:
  // Reads tokenizer.json (byte-level BPE), or tiktoken.model where there is none, and tokenizer_config.json.
  // NOT_FOUND: neither file. INVALID_ARGUMENT: names file and field: unknown model type, merges that name no token…
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Load(const std::string& directory);
  // The same from the files' contents; `tokenizer_config_json` may be empty. Errors name the files by their usual
  // names.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> LoadFromJson(absl::string_view tokenizer_json,
                                                                 absl::string_view tokenizer_config_json);
  virtual ~Tokenizer() = default;

  // The ids of `text`, without BOS. Never fails: every byte has a token; bytes that are not UTF-8 stand alone, and one
  // that the vocabulary lacks becomes U+FFFD. Time is linear (n log n) in its length.
  virtual std::vector<int32_t> Encode(absl::string_view text, SpecialText special) const = 0;
  // The ids of all spans as one text: words run across the seams, but a special token must stand within kAsTokens.
  // Neighbouring kAsTokens spans count as one.
  // (A tokenizer that does not override it, such as a test's, encodes each span on its own.)
  virtual std::vector<int32_t> EncodeSpans(absl::Span<const TextSpan> spans) const;
  // The text of `ids`; special tokens are left out where `skip_special`. Bytes that are not UTF-8 become U+FFFD.
  // INVALID_ARGUMENT: an id out of range.
  virtual absl::StatusOr<std::string> Decode(absl::Span<const int32_t> ids, bool skip_special) const = 0;
  // The raw bytes of one token (for special tokens, their text); empty for an unused id. REQUIRES: 0 <= id < vocab()
  virtual absl::string_view TokenBytes(int32_t id) const = 0;
  virtual bool IsSpecial(int32_t id) const = 0;
  virtual int vocab() const = 0;  // one more than the largest id
  virtual std::optional<int32_t> bos_id() const = 0;
  virtual std::optional<int32_t> eos_id() const = 0;
  virtual bool add_bos() const = 0;  // add_bos_token: raw prompts get BOS put before them, once
};

// `Encode` of a raw prompt, with BOS before it where add_bos() asks for it and it does not stand there yet.
std::vector<int32_t> EncodePrompt(const Tokenizer& tokenizer, absl::string_view text);

}  // namespace conclave

#endif  // CONCLAVE_MOE_TOKENIZER_TOKENIZER_H_
