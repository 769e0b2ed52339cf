// Tokens that are found in the text before any splitting: special ones such as "<|end|>", and words that were added
// to a vocabulary later.
#ifndef CONCLAVE_MOE_TOKENIZER_ADDED_TOKENS_H_
#define CONCLAVE_MOE_TOKENIZER_ADDED_TOKENS_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/functional/function_ref.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace conclave {

struct AddedToken {
  std::string content;
  int32_t id = 0;
  bool special = false;     // left out of decoded text
  bool lstrip = false;      // swallows the white space before it
  bool rstrip = false;      // swallows the white space after it
  bool normalized = false;  // looked for after those that are not
};

// Whether the token steers the model, so that a user's words must never turn into it: a special token, or one that is
// spelled like markup. (DeepSeek-V3 marks "<｜User｜>" as not special; DeepSeek-V2 adds the plain letter "ö".)
bool IsControlToken(const AddedToken& token);

// A stretch of text in which control tokens may be found.
struct TextRange {
  size_t begin, end;
};

// Finds the tokens of one set. Immutable once filled, then thread-safe.
class AddedTokenMatcher {
 public:
  void Add(const AddedToken& token);

  // Calls text(begin, end) and token(id) in order, so that they cover [begin, end) of `whole`. Of the tokens that
  // start at one place the longest wins; a control token counts only when all of it lies in one of `control_ranges`,
  // which ascend and do not overlap.
  void Split(absl::string_view whole, size_t begin, size_t end, absl::Span<const TextRange> control_ranges,
             absl::FunctionRef<void(size_t, size_t)> text, absl::FunctionRef<void(int32_t)> token) const;

 private:
  static constexpr int32_t kNoToken = -1;
  int32_t Child(int32_t node, char byte) const;
  // The longest token at the start of `text` and its length; kNoToken where none starts there.
  int32_t LongestAt(absl::string_view text, size_t control_bytes) const;

  absl::flat_hash_map<uint64_t, int32_t> children_;  // (node << 8 | byte) → node
  std::vector<int32_t> token_at_ = {kNoToken};       // by node: an index into tokens_
  std::vector<AddedToken> tokens_;
  bool first_bytes_[256] = {};
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_TOKENIZER_ADDED_TOKENS_H_
