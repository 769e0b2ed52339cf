// A grammar in a vocabulary: which tokens may come next.
#ifndef CONCLAVE_MOE_GRAMMAR_TOKEN_GRAMMAR_H_
#define CONCLAVE_MOE_GRAMMAR_TOKEN_GRAMMAR_H_

#include <cstdint>
#include <list>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/types/span.h"
#include "moe/grammar/automaton.h"
#include "moe/grammar/grammar.h"
#include "moe/grammar/program.h"
#include "moe/grammar/token_trie.h"

namespace conclave {

// The tokens that may come next.
struct TokenMask {
  std::vector<uint32_t> words;  // bit id % 32 of word id / 32, [ceil(vocab / 32)]
  bool any = false;             // there is one
  bool accepts = false;         // the answer may end here
};

// A compiled grammar and the masks that were found for it. Thread-safe.
class TokenGrammar {
 public:
  TokenGrammar(GrammarProgram program, std::shared_ptr<const TokenTrie> trie)
      : program_(std::move(program)), trie_(std::move(trie)) {}

  const GrammarProgram& program() const { return program_; }
  const TokenTrie& trie() const { return *trie_; }
  // The mask of one state of an automaton of this program. INVALID_ARGUMENT: the grammar is too ambiguous.
  absl::StatusOr<std::shared_ptr<const TokenMask>> MaskOf(GrammarAutomaton& automaton, int32_t state) const;

 private:
  absl::StatusOr<std::shared_ptr<const TokenMask>> Find(GrammarAutomaton& automaton, int32_t state) const;

  const GrammarProgram program_;
  const std::shared_ptr<const TokenTrie> trie_;
  mutable absl::Mutex mutex_;
  mutable absl::flat_hash_map<std::string, std::shared_ptr<const TokenMask>> masks_ ABSL_GUARDED_BY(mutex_);
};

// One answer under way. A pure function of the grammar and the tokens so far, whoever else runs. Used by one thread at
// a time.
class GrammarMatcher {
 public:
  explicit GrammarMatcher(std::shared_ptr<const TokenGrammar> grammar)
      : grammar_(std::move(grammar)), automaton_(grammar_->program()), state_(automaton_.start()) {}

  // The tokens that may come next; valid until the next call. INVALID_ARGUMENT: none may, and the answer may not end
  // either, since the vocabulary lacks the bytes; or the grammar is too ambiguous.
  absl::StatusOr<const TokenMask*> Allowed();
  // Takes a token. INVALID_ARGUMENT: the grammar does not allow it here.
  absl::Status Take(int32_t id);
  bool accepts() const { return automaton_.Accepts(state_); }

 private:
  int32_t After(absl::string_view text);

  std::shared_ptr<const TokenGrammar> grammar_;
  GrammarAutomaton automaton_;
  int32_t state_;
  std::shared_ptr<const TokenMask> mask_;
};

// Compiles grammars for one vocabulary and keeps those of late, since many requests have the same. Thread-safe.
class GrammarPool {
 public:
  explicit GrammarPool(std::shared_ptr<const TokenTrie> trie) : trie_(std::move(trie)) {}
  // Errors as CompileGrammar.
  absl::StatusOr<std::shared_ptr<const TokenGrammar>> Get(const GrammarSpec& spec);

 private:
  static constexpr size_t kKept = 32;
  struct Entry {
    std::string key;
    std::shared_ptr<const TokenGrammar> grammar;
  };

  const std::shared_ptr<const TokenTrie> trie_;
  absl::Mutex mutex_;
  std::list<Entry> entries_ ABSL_GUARDED_BY(mutex_);  // the latest first
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_GRAMMAR_TOKEN_GRAMMAR_H_
