#include "moe/grammar/token_trie.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "moe/base/status_macros.h"
#include "moe/tokenizer/tokenizer.h"

namespace conclave {
namespace {

size_t CommonPrefix(absl::string_view a, absl::string_view b) {
  return static_cast<size_t>(std::mismatch(a.begin(), a.begin() + std::min(a.size(), b.size()), b.begin()).first -
                             a.begin());
}

}  // namespace

TokenTrie::TokenTrie(std::vector<std::string> texts) : texts_(std::move(texts)) {
  for (size_t id = 0; id < texts_.size(); ++id) {
    // A longer one could not be told by its depth; no vocabulary has one.
    if (texts_[id].size() > std::numeric_limits<uint16_t>::max()) texts_[id].clear();
    if (!texts_[id].empty()) ids_.push_back(static_cast<int32_t>(id));
  }
  std::sort(ids_.begin(), ids_.end(), [this](int32_t a, int32_t b) {
    return std::pair(absl::string_view(texts_[a]), a) < std::pair(absl::string_view(texts_[b]), b);
  });
  std::vector<int32_t> path;  // nodes from the root to the last one
  absl::string_view before;
  for (size_t i = 0; i < ids_.size(); ++i) {
    const absl::string_view text = texts_[ids_[i]];
    const size_t same = CommonPrefix(before, text);
    for (; path.size() > same; path.pop_back()) nodes_[path.back()].skip = static_cast<int32_t>(nodes_.size());
    for (size_t at = same; at < text.size(); ++at) {
      path.push_back(static_cast<int32_t>(nodes_.size()));
      nodes_.push_back({static_cast<uint8_t>(text[at]), static_cast<uint16_t>(at + 1), 0, static_cast<int32_t>(i)});
    }
    bytes_max_ = std::max(bytes_max_, static_cast<int>(text.size()));
    before = text;
  }
  for (const int32_t node : path) nodes_[node].skip = static_cast<int32_t>(nodes_.size());
  nodes_.push_back({0, 0, 0, static_cast<int32_t>(ids_.size())});
}

absl::StatusOr<std::shared_ptr<const TokenTrie>> TokenTrie::Load(const std::string& directory, int vocab,
                                                                 absl::Span<const int32_t> ending) {
  ASSIGN_OR_RETURN(const auto tokenizer, Tokenizer::Load(directory));
  std::vector<std::string> texts(vocab);
  for (int32_t id = 0; id < std::min(vocab, tokenizer->vocab()); ++id) {
    const bool ends = std::find(ending.begin(), ending.end(), id) != ending.end();
    if (!ends && !tokenizer->IsSpecial(id)) texts[id] = std::string(tokenizer->TokenBytes(id));
  }
  return std::make_shared<const TokenTrie>(std::move(texts));
}

}  // namespace conclave
