#include "moe/grammar/json_parts.h"

#include <algorithm>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "moe/tokenizer/utf8.h"

namespace conclave {
namespace {

// The escapes of RFC 8259, section 7, that have a letter.
constexpr struct {
  char code;
  char letter;
} kEscapes[] = {{'"', '"'}, {'\\', '\\'}, {'\b', 'b'}, {'\f', 'f'}, {'\n', 'n'}, {'\r', 'r'}, {'\t', 't'}};

// What stands in a string as it is.
constexpr std::pair<uint32_t, uint32_t> kPlain[] = {{0x20, '"' - 1}, {'"' + 1, '\\' - 1}, {'\\' + 1, 0x10ffff}};

// Of `ranges`, ascending.
CharSet PlainOf(const std::vector<std::pair<uint32_t, uint32_t>>& ranges) {
  CharSet plain;
  for (const auto& [low, high] : ranges) {
    for (const auto& [from, to] : kPlain) {
      if (low <= to && from <= high) plain.Add(std::max(low, from), std::min(high, to));
    }
  }
  return plain;
}

int32_t HexDigit(GrammarBuilder& builder, uint32_t low, uint32_t high, int32_t next) {
  int32_t begin = builder.Fail();
  if (low <= 9) begin = builder.Bytes('0' + low, '0' + std::min(high, 9u), next);
  if (high < 10) return begin;
  const uint32_t from = std::max(low, 10u) - 10, to = high - 10;
  begin = builder.Split(builder.Bytes('a' + from, 'a' + to, next), begin);
  return builder.Split(builder.Bytes('A' + from, 'A' + to, next), begin);
}

}  // namespace

int32_t JsonParts::Space(int32_t next) {
  if (!blank_.has_value()) {
    blank_ = builder_.NewRule();
    builder_.SetRule(*blank_,
                     builder_.Split(builder_.Byte(' ', builder_.Return()), builder_.Byte('\t', builder_.Return())));
  }
  const int32_t line = builder_.Byte('\n', builder_.Repeat(*blank_, 0, kJsonIndentMax, next));
  return builder_.Optional(line, Blank(next));
}

int32_t JsonParts::StringChar(const CharSet& set, int32_t next) {
  const auto ranges = set.Ranges();
  int32_t begin = AppendChar(builder_, PlainOf(ranges), next);
  const auto contains = [&ranges](uint32_t code) {
    return std::any_of(ranges.begin(), ranges.end(),
                       [code](const auto& range) { return range.first <= code && code <= range.second; });
  };
  for (const auto& [code, letter] : kEscapes) {
    if (!contains(static_cast<unsigned char>(code))) continue;
    begin = builder_.Split(builder_.Byte('\\', builder_.Byte(letter, next)), begin);
  }
  for (uint32_t code = 0; code < 0x20; ++code) {
    const bool has_letter = std::any_of(std::begin(kEscapes), std::end(kEscapes),
                                        [code](const auto& escape) { return escape.code == static_cast<char>(code); });
    if (has_letter || !contains(code)) continue;
    const int32_t digits = HexDigit(builder_, code >> 4, code >> 4, HexDigit(builder_, code & 15, code & 15, next));
    begin = builder_.Split(builder_.Literal("\\u00", digits), begin);
  }
  return begin;
}

// \uXXXX: a character of the basic plane, or a pair of surrogates, which are one character.
int32_t JsonParts::EscapedUnit(int32_t next) {
  const auto any = [this](int digits, int32_t then) {
    for (int i = 0; i < digits; ++i) then = HexDigit(builder_, 0, 15, then);
    return then;
  };
  int32_t low_half = builder_.Literal("\\u", HexDigit(builder_, 13, 13, HexDigit(builder_, 12, 15, any(2, next))));
  const int32_t pair = HexDigit(builder_, 13, 13, HexDigit(builder_, 8, 11, any(2, low_half)));
  const int32_t below_pairs = HexDigit(builder_, 13, 13, HexDigit(builder_, 0, 7, any(2, next)));
  int32_t begin = builder_.Split(HexDigit(builder_, 0, 12, any(3, next)), HexDigit(builder_, 14, 15, any(3, next)));
  begin = builder_.Split(builder_.Split(below_pairs, pair), begin);
  return builder_.Literal("\\u", begin);
}

int32_t JsonParts::AnyChar() {
  if (char_.has_value()) return *char_;
  char_ = builder_.NewRule();
  const int32_t end = builder_.Return();
  int32_t begin = builder_.Split(AppendChar(builder_, PlainOf({{0, 0x10ffff}}), end), EscapedUnit(end));
  int32_t letter = builder_.Byte('/', end);
  for (const auto& escape : kEscapes) letter = builder_.Split(builder_.Byte(escape.letter, end), letter);
  builder_.SetRule(*char_, builder_.Split(begin, builder_.Byte('\\', letter)));
  return *char_;
}

int32_t JsonParts::String(int32_t least, int32_t most, int32_t next) {
  return builder_.Byte('"', builder_.Repeat(AnyChar(), least, most, builder_.Byte('"', next)));
}

int32_t JsonParts::StringOtherThan(const std::vector<std::string>& texts, int32_t next) {
  const int32_t end = builder_.Byte('"', next);
  const int32_t plain = builder_.NewRule();
  builder_.SetRule(plain, AppendChar(builder_, PlainOf({{0, 0x10ffff}}), builder_.Return()));
  const int32_t free = builder_.Repeat(plain, 0, -1, end);
  struct Node {
    bool ends = false;
    std::map<uint32_t, Node> next;
  };
  Node root;
  for (absl::string_view text : texts) {
    Node* node = &root;
    while (!text.empty()) {
      const Utf8Step step = NextUtf8(text);
      text.remove_prefix(step.bytes);
      node = &node->next[step.code_point];
    }
    node->ends = true;
  }
  // A text of n characters is n deep: the walk keeps its own stack.
  struct Visit {
    const Node* node;
    std::map<uint32_t, Node>::const_iterator child;
    std::vector<std::pair<uint32_t, int32_t>> begins;  // of the children done
  };
  std::vector<Visit> stack{{&root, root.next.begin(), {}}};
  while (true) {
    Visit& visit = stack.back();
    if (visit.child != visit.node->next.end()) {
      const Node& child = visit.child->second;
      stack.push_back({&child, child.next.begin(), {}});
      continue;
    }
    CharSet continued;
    int32_t begin = visit.node->ends ? builder_.Fail() : end;
    for (const auto& [point, child] : visit.begins) {
      continued.Add(point, point);
      // A name with characters that would be escaped cannot be met.
      const CharSet one = PlainOf({{point, point}});
      if (!one.empty()) begin = builder_.Split(AppendChar(builder_, one, child), begin);
    }
    begin = builder_.Split(AppendChar(builder_, PlainOf(continued.Complement().Ranges()), free), begin);
    stack.pop_back();
    if (stack.empty()) return builder_.Byte('"', begin);
    stack.back().begins.emplace_back(stack.back().child->first, begin);
    ++stack.back().child;
  }
}

int32_t JsonParts::Digits(int32_t least, int32_t most, int32_t next) {
  if (!digit_.has_value()) {
    digit_ = builder_.NewRule();
    builder_.SetRule(*digit_, builder_.Bytes('0', '9', builder_.Return()));
  }
  return builder_.Repeat(*digit_, least, most, next);
}

int32_t JsonParts::Fraction(int digits, bool above_zero, int32_t next) {
  if (digits < 1) return builder_.Fail();
  if (above_zero) return builder_.Byte('.', Digits(0, digits - 1, builder_.Bytes('1', '9', next)));
  return builder_.Byte('.', Digits(1, digits, next));
}

int32_t JsonParts::Integer(int32_t next) {
  const int32_t digits =
      builder_.Split(builder_.Byte('0', next), builder_.Bytes('1', '9', Digits(0, kJsonDigitsMax - 1, next)));
  return builder_.Optional(builder_.Byte('-', digits), digits);
}

int32_t JsonParts::Number(int32_t next) {
  const int32_t digits = Digits(1, kJsonExponentDigitsMax, next);
  const int32_t power = builder_.Split(digits, builder_.Split(builder_.Byte('-', digits), builder_.Byte('+', digits)));
  const int32_t exponent =
      builder_.Optional(builder_.Split(builder_.Byte('e', power), builder_.Byte('E', power)), next);
  return Integer(builder_.Optional(Fraction(kJsonDigitsMax, false, exponent), exponent));
}

// Numbers of as many digits as both bounds have.
int32_t JsonParts::SameLength(const std::string& least, const std::string& most, size_t at, bool tight_least,
                              bool tight_most, int32_t next) {
  if (at == least.size()) return next;
  const int32_t left = static_cast<int32_t>(least.size() - at);
  if (!tight_least && !tight_most) return Digits(left, left, next);
  const char low = tight_least ? least[at] : '0', high = tight_most ? most[at] : '9';
  const auto rest = [&](bool also_least, bool also_most) {
    return SameLength(least, most, at + 1, also_least, also_most, next);
  };
  if (low == high) return builder_.Byte(low, rest(tight_least, tight_most));
  int32_t begin = builder_.Fail();
  const char from = static_cast<char>(low + (tight_least ? 1 : 0)), to = static_cast<char>(high - (tight_most ? 1 : 0));
  if (from <= to) begin = builder_.Bytes(static_cast<uint8_t>(from), static_cast<uint8_t>(to), rest(false, false));
  if (tight_least) begin = builder_.Split(builder_.Byte(low, rest(true, false)), begin);
  if (tight_most) begin = builder_.Split(builder_.Byte(high, rest(false, true)), begin);
  return begin;
}

// Whole numbers in [least, most], least >= 0; nothing where least > most.
int32_t JsonParts::Magnitude(int64_t least, int64_t most, int32_t next) {
  int32_t begin = builder_.Fail();
  for (int64_t from = least; from <= most;) {
    const std::string low = absl::StrCat(from), nines(low.size(), '9');
    const std::string high = std::min(absl::StrCat(most), nines, [](const std::string& a, const std::string& b) {
      return a.size() != b.size() ? a.size() < b.size() : a < b;
    });
    begin = builder_.Split(SameLength(low, high, 0, true, true, next), begin);
    if (high != nines || static_cast<int>(nines.size()) >= kJsonDigitsMax) break;
    from = std::stoll(nines) + 1;
  }
  return begin;
}

// Numbers of one sign; the bounds are of their magnitudes. -0 is left out.
int32_t JsonParts::Signed(bool negative, std::optional<JsonBound> least, std::optional<JsonBound> most, bool fractions,
                          int32_t next) {
  constexpr int64_t kMost = 999'999'999'999'999'999;
  JsonBound low = least.value_or(JsonBound{0, false}), high = most.value_or(JsonBound{kMost, false});
  if (low.value < 0) low = {0, false};
  if (negative && low.value == 0) low.open = true;
  if (high.value < low.value) return builder_.Fail();
  int32_t begin = Magnitude(low.value + (low.open ? 1 : 0), high.value - (high.open ? 1 : 0), next);
  if (fractions && low.value < high.value) {
    // So few digits that no value comes nearer to a bound than doubles can tell.
    const int64_t widest = most.has_value() ? high.value : low.value;
    const int digits = std::max(0, 15 - static_cast<int>(absl::StrCat(widest).size()));
    const int32_t inner = Magnitude(low.value + 1, high.value - 1, Fraction(digits, false, next));
    const int32_t lowest = Magnitude(low.value, low.value, Fraction(digits, low.open, next));
    begin = builder_.Split(begin, builder_.Split(lowest, inner));
  }
  return negative ? builder_.Byte('-', begin) : begin;
}

int32_t JsonParts::InRange(std::optional<JsonBound> least, std::optional<JsonBound> most, bool fractions,
                           int32_t next) {
  int32_t begin = builder_.Fail();
  const bool reaches_up = !most.has_value() || most->value > 0 || (most->value == 0 && !most->open);
  const bool reaches_down = !least.has_value() || least->value < 0;
  if (reaches_up) begin = Signed(false, least, most, fractions, next);
  if (reaches_down) {
    const auto negated = [](const std::optional<JsonBound>& bound) {
      return bound.has_value() ? std::optional(JsonBound{-bound->value, bound->open}) : std::nullopt;
    };
    // Where `most` is above zero, magnitudes begin at zero.
    std::optional<JsonBound> low = negated(most);
    if (low.has_value() && low->value < 0) low = std::nullopt;
    begin = builder_.Split(Signed(true, low, negated(least), fractions, next), begin);
  }
  return begin;
}

int32_t JsonParts::IntegerIn(std::optional<JsonBound> least, std::optional<JsonBound> most, int32_t next) {
  return InRange(least, most, false, next);
}

int32_t JsonParts::NumberIn(std::optional<JsonBound> least, std::optional<JsonBound> most, int32_t next) {
  return InRange(least, most, true, next);
}

int32_t JsonParts::Another(int32_t rule) {
  const int32_t another = builder_.NewRule();
  builder_.SetRule(another, builder_.Byte(',', Space(builder_.Call(rule, builder_.Return()))));
  return another;
}

int32_t JsonParts::Array(const std::vector<int32_t>& first, std::optional<int32_t> item, int32_t least, int32_t most,
                         int32_t next) {
  const int32_t close = builder_.Byte(']', next);
  const int32_t end = Space(close);
  int32_t count = static_cast<int32_t>(first.size());
  int32_t rest = end;  // behind all of `first`
  if (item.has_value() && (most < 0 || most > count)) {
    // Where there is nothing before them, the first of them has no comma.
    const int32_t done = std::max(count, 1);
    rest = builder_.Repeat(Another(*item), std::max(least - done, 0), most < 0 ? -1 : most - done, end);
    if (count == 0) {
      rest = builder_.Call(*item, rest);
      if (least == 0) rest = builder_.Split(rest, close);
    }
  } else if (least > count) {
    rest = builder_.Fail();
  } else if (count == 0) {
    rest = close;
  }
  if (most >= 0 && most < count) {
    count = most;
    rest = count == 0 ? close : end;
  }
  for (int32_t i = count - 1; i >= 0; --i) {
    rest = builder_.Call(first[i], rest);
    if (i > 0) rest = builder_.Byte(',', Space(rest));
    if (least <= i) rest = builder_.Split(rest, i > 0 ? end : close);
  }
  return builder_.Byte('[', Space(rest));
}

int32_t JsonParts::AnyValue(int32_t next) {
  if (!value_.has_value()) {
    value_ = builder_.NewRule();
    const int32_t end = builder_.Return();
    int32_t begin = builder_.Split(AnyObject(end), AnyArray(end));
    begin = builder_.Split(begin, builder_.Split(String(0, -1, end), Number(end)));
    for (const char* word : {"true", "false", "null"}) begin = builder_.Split(begin, builder_.Literal(word, end));
    builder_.SetRule(*value_, begin);
  }
  return builder_.Call(*value_, next);
}

int32_t JsonParts::AnyObject(int32_t next) {
  if (!object_.has_value()) {
    object_ = builder_.NewRule();
    member_ = builder_.NewRule();
    const int32_t close = builder_.Byte('}', builder_.Return());
    const int32_t members = builder_.Call(*member_, builder_.Repeat(Another(*member_), 0, -1, Space(close)));
    builder_.SetRule(*object_, builder_.Byte('{', Space(builder_.Split(members, close))));
    builder_.SetRule(*member_, String(0, -1, builder_.Byte(':', Blank(AnyValue(builder_.Return())))));
  }
  return builder_.Call(*object_, next);
}

int32_t JsonParts::AnyArray(int32_t next) {
  if (!array_.has_value()) {
    array_ = builder_.NewRule();
    const int32_t item = builder_.NewRule();
    builder_.SetRule(*array_, Array({}, item, 0, -1, builder_.Return()));
    builder_.SetRule(item, AnyValue(builder_.Return()));
  }
  return builder_.Call(*array_, next);
}

}  // namespace conclave
