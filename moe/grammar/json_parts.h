// The parts that JSON texts are made of, as parts of a program. What they allow is a bounded choice of what JSON does:
// white space, digits and exponents have an end, so that no model can go on with them for ever.
#ifndef CONCLAVE_MOE_GRAMMAR_JSON_PARTS_H_
#define CONCLAVE_MOE_GRAMMAR_JSON_PARTS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "moe/grammar/char_set.h"
#include "moe/grammar/program.h"

namespace conclave {

// Digits of a number before and behind its point, of its exponent, and blanks behind a line end.
inline constexpr int kJsonDigitsMax = 18;
inline constexpr int kJsonExponentDigitsMax = 2;
inline constexpr int kJsonIndentMax = 20;

// One end of a range of numbers.
struct JsonBound {
  int64_t value = 0;
  bool open = false;  // the value itself is outside
};

// Each function appends a part that goes on at `next`, and says where it begins. Rules that several parts need are made
// once. Not thread-safe.
class JsonParts {
 public:
  explicit JsonParts(GrammarBuilder& builder) : builder_(builder) {}

  // Nothing, one blank, or a line end with up to kJsonIndentMax blanks or tabs: around the members of objects and
  // arrays.
  int32_t Space(int32_t next);
  // Nothing or one blank: behind the colon.
  int32_t Blank(int32_t next) { return builder_.Optional(builder_.Byte(' ', next), next); }
  // A character of `set` within a string, escaped where it must be.
  int32_t StringChar(const CharSet& set, int32_t next);
  // Any string of so many characters; most -1: no end.
  int32_t String(int32_t least, int32_t most, int32_t next);
  // Any string but these, written without escapes.
  int32_t StringOtherThan(const std::vector<std::string>& texts, int32_t next);
  int32_t Integer(int32_t next);
  int32_t Number(int32_t next);
  // REQUIRES: bounds within ±10^15
  int32_t IntegerIn(std::optional<JsonBound> least, std::optional<JsonBound> most, int32_t next);
  int32_t NumberIn(std::optional<JsonBound> least, std::optional<JsonBound> most, int32_t next);
  int32_t AnyValue(int32_t next);
  int32_t AnyObject(int32_t next);
  int32_t AnyArray(int32_t next);
  // least to most times `item`, a rule, between brackets, behind `first`, rules of their own; most -1: no end.
  int32_t Array(const std::vector<int32_t>& first, std::optional<int32_t> item, int32_t least, int32_t most,
                int32_t next);
  // "," and a member or element, as a rule.
  int32_t Another(int32_t rule);

 private:
  int32_t Digits(int32_t least, int32_t most, int32_t next);
  int32_t AnyChar();
  int32_t EscapedUnit(int32_t next);
  int32_t Magnitude(int64_t least, int64_t most, int32_t next);
  int32_t SameLength(const std::string& least, const std::string& most, size_t at, bool tight_least, bool tight_most,
                     int32_t next);
  int32_t Signed(bool negative, std::optional<JsonBound> least, std::optional<JsonBound> most, bool fractions,
                 int32_t next);
  int32_t InRange(std::optional<JsonBound> least, std::optional<JsonBound> most, bool fractions, int32_t next);
  int32_t Fraction(int digits, bool above_zero, int32_t next);

  GrammarBuilder& builder_;
  std::optional<int32_t> digit_, blank_, char_, value_, object_, array_, member_;
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_GRAMMAR_JSON_PARTS_H_
