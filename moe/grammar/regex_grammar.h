// Regular expressions as grammars: the part of ECMA-262's syntax that JSON Schema recommends.
#ifndef CONCLAVE_MOE_GRAMMAR_REGEX_GRAMMAR_H_
#define CONCLAVE_MOE_GRAMMAR_REGEX_GRAMMAR_H_

#include <cstdint>
#include <functional>
#include <memory>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "moe/grammar/char_set.h"
#include "moe/grammar/program.h"

namespace conclave {

inline constexpr int64_t kRegexBytesMax = 16 << 10;
inline constexpr int kRegexRepeatMax = 10000;

// How one character of a set is written, then `next`.
using CharWriter = std::function<int32_t(const CharSet& set, int32_t next)>;

struct RegexNode;

// A parsed pattern: characters, ., classes with \d \w \s and their complements, escapes \n \r \t \f \v \xHH \uHHHH,
// groups, |, and the quantifiers ? * + {n} {n,} {n,m}; ^ and $ at the ends of the pattern or of its alternatives.
// . and negated classes are as in ECMA-262 with the flag u. Immutable.
class RegexPattern {
 public:
  // INVALID_ARGUMENT says what is not supported (look-around, back references, word boundaries, \p{…}) or wrong.
  static absl::StatusOr<RegexPattern> Parse(absl::string_view pattern);
  // A text that the pattern matches as a whole where `whole`, else one that holds a match; then `next`.
  int32_t Append(GrammarBuilder& builder, const CharWriter& write, bool whole, int32_t next) const;

 private:
  std::shared_ptr<const RegexNode> root_;
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_GRAMMAR_REGEX_GRAMMAR_H_
