#include "moe/grammar/token_grammar.h"

#include <algorithm>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "moe/base/status_macros.h"

namespace conclave {
namespace {

// Of the masks that one grammar keeps.
constexpr size_t kMaskBytesKept = 4 << 20;

absl::Status TooAmbiguous() {
  return absl::InvalidArgumentError(
      "the grammar is too ambiguous: too many of its alternatives begin alike; make them differ earlier");
}

}  // namespace

absl::StatusOr<std::shared_ptr<const TokenMask>> TokenGrammar::MaskOf(GrammarAutomaton& automaton,
                                                                      int32_t state) const {
  std::string key = automaton.KeyOf(state, trie_->bytes_max());
  {
    absl::MutexLock lock(&mutex_);
    if (const auto found = masks_.find(key); found != masks_.end()) return found->second;
  }
  ASSIGN_OR_RETURN(std::shared_ptr<const TokenMask> mask, Find(automaton, state));
  absl::MutexLock lock(&mutex_);
  if (masks_.size() * mask->words.size() * sizeof(uint32_t) > kMaskBytesKept) masks_.clear();
  masks_.emplace(std::move(key), mask);
  return mask;
}

absl::StatusOr<std::shared_ptr<const TokenMask>> TokenGrammar::Find(GrammarAutomaton& automaton, int32_t state) const {
  auto mask = std::make_shared<TokenMask>();
  mask->words.assign((trie_->vocab() + 31) / 32, 0);
  mask->accepts = automaton.Accepts(state);
  const absl::Span<const TokenTrie::Node> nodes = trie_->nodes();
  const absl::Span<const int32_t> ids = trie_->ids();
  std::vector<int32_t> states(trie_->bytes_max() + 1);  // by depth
  states[0] = state;
  const int32_t end = static_cast<int32_t>(nodes.size()) - 1;
  for (int32_t i = 0; i < end;) {
    const TokenTrie::Node& node = nodes[i];
    const int32_t next = automaton.Step(states[node.depth - 1], node.byte);
    if (next == GrammarAutomaton::kLimit) return TooAmbiguous();
    if (next == GrammarAutomaton::kDead) {
      i = node.skip;
      continue;
    }
    states[node.depth] = next;
    ++i;
    for (int32_t at = node.ids_begin; at < nodes[i].ids_begin; ++at) {
      mask->words[ids[at] >> 5] |= uint32_t{1} << (ids[at] & 31);
      mask->any = true;
    }
  }
  return mask;
}

absl::StatusOr<const TokenMask*> GrammarMatcher::Allowed() {
  absl::StatusOr<std::shared_ptr<const TokenMask>> mask = grammar_->MaskOf(automaton_, state_);
  if (!mask.ok()) {
    // What the automaton remembers counts too, and depends on which masks others had found: only the state may matter.
    state_ = automaton_.Forget(state_);
    mask = grammar_->MaskOf(automaton_, state_);
  }
  ASSIGN_OR_RETURN(mask_, std::move(mask));
  if (!mask_->any && !mask_->accepts) {
    return absl::InvalidArgumentError(
        "the grammar: this model's vocabulary has no token with which the answer could go on or end");
  }
  return mask_.get();
}

int32_t GrammarMatcher::After(absl::string_view text) {
  int32_t state = state_;
  for (size_t i = 0; i < text.size() && state >= 0; ++i) state = automaton_.Step(state, static_cast<uint8_t>(text[i]));
  return state;
}

absl::Status GrammarMatcher::Take(int32_t id) {
  if (automaton_.IsFull()) state_ = automaton_.Forget(state_);
  const absl::string_view text = id >= 0 && id < grammar_->trie().vocab() ? grammar_->trie().text(id) : "";
  int32_t state = text.empty() ? GrammarAutomaton::kDead : After(text);
  if (state == GrammarAutomaton::kLimit) {  // perhaps for what the automaton remembers, as in Allowed
    state_ = automaton_.Forget(state_);
    state = After(text);
  }
  if (state == GrammarAutomaton::kLimit) return TooAmbiguous();
  if (state == GrammarAutomaton::kDead) {
    return absl::InvalidArgumentError(
        absl::StrCat("the grammar does not allow the token ", id, " ('", absl::CHexEscape(text), "') here"));
  }
  state_ = state;
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<const TokenGrammar>> GrammarPool::Get(const GrammarSpec& spec) {
  const std::string key = spec.Key();
  {
    absl::MutexLock lock(&mutex_);
    const auto found =
        std::find_if(entries_.begin(), entries_.end(), [&key](const Entry& entry) { return entry.key == key; });
    if (found != entries_.end()) {
      entries_.splice(entries_.begin(), entries_, found);
      return found->grammar;
    }
  }
  ASSIGN_OR_RETURN(GrammarProgram program, CompileGrammar(spec));
  auto grammar = std::make_shared<const TokenGrammar>(std::move(program), trie_);
  absl::MutexLock lock(&mutex_);
  entries_.push_front({key, grammar});
  if (entries_.size() > kKept) entries_.pop_back();
  return grammar;
}

}  // namespace conclave
