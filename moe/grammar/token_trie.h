// The bytes of a vocabulary's tokens, those that begin alike as one path.
#ifndef CONCLAVE_MOE_GRAMMAR_TOKEN_TRIE_H_
#define CONCLAVE_MOE_GRAMMAR_TOKEN_TRIE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace conclave {

// Immutable, so thread-safe.
class TokenTrie {
 public:
  // One text for each id; ids without one are in no answer that has a grammar.
  explicit TokenTrie(std::vector<std::string> texts);
  // Of the tokenizer in a model's directory, for ids below `vocab`: special tokens, and `ending` ids, have no text.
  // Errors as Tokenizer::Load.
  static absl::StatusOr<std::shared_ptr<const TokenTrie>> Load(const std::string& directory, int vocab,
                                                               absl::Span<const int32_t> ending);

  // Nodes in depth-first order, the root left out.
  struct Node {
    uint8_t byte = 0;
    uint16_t depth = 0;     // bytes from the root on, from 1
    int32_t skip = 0;       // the next node that is not below this one
    int32_t ids_begin = 0;  // in ids(), up to the next node's: the tokens that end here
  };
  absl::Span<const Node> nodes() const { return nodes_; }  // with one more at the end, which is no node
  absl::Span<const int32_t> ids() const { return ids_; }
  absl::string_view text(int32_t id) const { return texts_[id]; }
  int vocab() const { return static_cast<int>(texts_.size()); }
  int bytes_max() const { return bytes_max_; }  // of a token

 private:
  std::vector<std::string> texts_;
  std::vector<Node> nodes_;
  std::vector<int32_t> ids_;
  int bytes_max_ = 0;
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_GRAMMAR_TOKEN_TRIE_H_
