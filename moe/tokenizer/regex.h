// PCRE2 behind a small seam: compile a split pattern once, then find its matches in any text, in linear memory.
#ifndef CONCLAVE_MOE_TOKENIZER_REGEX_H_
#define CONCLAVE_MOE_TOKENIZER_REGEX_H_

#include <cstddef>
#include <memory>
#include <string>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace conclave {

// Memory of a search (match data, JIT stack). One per thread; any Regex may use it.
class RegexScratch {
 public:
  RegexScratch();
  ~RegexScratch();

 private:
  friend class Regex;
  struct State;
  std::unique_ptr<State> state_;
};

// Immutable, so thread-safe.
class Regex {
 public:
  // `pattern` in the syntax of Hugging Face tokenizers or tiktoken; see regex_syntax.h for what is refused.
  static absl::StatusOr<Regex> Compile(absl::string_view pattern);
  // Finds `text` itself.
  static absl::StatusOr<Regex> CompileLiteral(absl::string_view text);
  Regex(Regex&&) noexcept;
  Regex& operator=(Regex&&) noexcept;
  ~Regex();

  // Calls found(begin, end) for each match, from left to right, without overlap. An empty match is reported only
  // where no match has just ended. A search that runs into PCRE2's limits (no published pattern does) ends the list:
  // the rest of the text counts as unmatched. REQUIRES: IsUtf8(text)
  void ForEachMatch(absl::string_view text, RegexScratch* scratch,
                    absl::FunctionRef<void(size_t begin, size_t end)> found) const;

 private:
  struct Code;
  explicit Regex(std::unique_ptr<Code> code);
  static absl::StatusOr<Regex> CompilePcre2(absl::string_view pattern, absl::string_view shown);

  std::unique_ptr<Code> code_;
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_TOKENIZER_REGEX_H_
