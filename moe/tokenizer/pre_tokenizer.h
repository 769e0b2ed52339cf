// Cuts a text into the words within which BPE merges: a sequence of split stages, each applied to the pieces of the
// one before, as Hugging Face tokenizers' pre_tokenizer Sequence does.
#ifndef CONCLAVE_MOE_TOKENIZER_PRE_TOKENIZER_H_
#define CONCLAVE_MOE_TOKENIZER_PRE_TOKENIZER_H_

#include <cstddef>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/strings/string_view.h"
#include "moe/tokenizer/regex.h"

namespace conclave {

// What becomes of the matches ("delimiters") of a split.
enum class SplitBehavior { kRemoved, kIsolated, kMergedWithPrevious, kMergedWithNext, kContiguous };

// Immutable once filled, then thread-safe.
class PreTokenizer {
 public:
  // Memory that is reused from text to text; one per thread.
  struct Scratch;

  // `invert`: what lies between the matches counts as match.
  void AddSplit(Regex regex, SplitBehavior behavior, bool invert);
  // From here on a space goes before every piece that does not begin with one.
  void AddPrefixSpace();

  // Calls word(w) for each word in order; together they are `text` less what is removed, plus prefix spaces. A word
  // lives until `word` returns. REQUIRES: IsUtf8(text)
  void ForEachWord(absl::string_view text, Scratch* scratch, absl::FunctionRef<void(absl::string_view)> word) const;

 private:
  struct Stage {
    std::vector<Regex> regex;  // exactly one, or none in the stage that adds prefix spaces
    SplitBehavior behavior = SplitBehavior::kIsolated;
    bool invert = false;
  };
  void RunStage(size_t index, absl::string_view text, Scratch* scratch,
                absl::FunctionRef<void(absl::string_view)> word) const;

  std::vector<Stage> stages_;
};

// Working memory of one Encode call.
struct PreTokenizer::Scratch {
  struct Piece {
    size_t begin, end;
    bool is_match;
  };
  RegexScratch regex;
  std::vector<std::vector<Piece>> pieces;  // by stage
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_TOKENIZER_PRE_TOKENIZER_H_
