#include "moe/grammar/regex_grammar.h"

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "moe/base/status_macros.h"
#include "moe/tokenizer/utf8.h"

namespace conclave {

// What a pattern consists of. A root is a kEither of kAlternative.
struct RegexNode {
  enum class Kind { kChar, kSequence, kEither, kRepeat, kAlternative };
  Kind kind = Kind::kSequence;
  CharSet set;                              // of kChar
  std::vector<RegexNode> parts;             // of the others
  int32_t least = 0, most = 0;              // of kRepeat
  bool from_begin = false, to_end = false;  // of kAlternative

  bool MayBeEmpty() const {
    const auto may = [](const RegexNode& part) { return part.MayBeEmpty(); };
    switch (kind) {
      case Kind::kChar:
        return false;
      case Kind::kEither:
        return std::any_of(parts.begin(), parts.end(), may);
      case Kind::kRepeat:
        return least == 0 || parts[0].MayBeEmpty();
      case Kind::kSequence:
      case Kind::kAlternative:
        return std::all_of(parts.begin(), parts.end(), may);
    }
    return true;
  }
};

namespace {

constexpr int kGroupDepthMax = 32;

using Kind = RegexNode::Kind;

CharSet Digits() {
  CharSet set;
  set.Add('0', '9');
  return set;
}

CharSet WordChars() {
  CharSet set = Digits();
  set.Add('a', 'z');
  set.Add('A', 'Z');
  set.Add('_', '_');
  return set;
}

// ECMA-262's WhiteSpace and LineTerminator.
CharSet Spaces() {
  CharSet set;
  set.Add(0x09, 0x0d);
  for (uint32_t point : {0x20u, 0xa0u, 0x1680u, 0x2028u, 0x2029u, 0x202fu, 0x205fu, 0x3000u, 0xfeffu}) {
    set.Add(point, point);
  }
  set.Add(0x2000, 0x200a);
  return set;
}

CharSet AnyButLineEnds() {
  CharSet set;
  for (uint32_t point : {0x0au, 0x0du, 0x2028u, 0x2029u}) set.Add(point, point);
  return set.Complement();
}

CharSet One(uint32_t point) {
  CharSet set;
  set.Add(point, point);
  return set;
}

class Parser {
 public:
  explicit Parser(absl::string_view text) : text_(text) {}

  absl::StatusOr<RegexNode> Parse() {
    RegexNode root{.kind = Kind::kEither};
    do {
      ASSIGN_OR_RETURN(RegexNode alternative, Alternative());
      root.parts.push_back(std::move(alternative));
    } while (Take('|'));
    if (!text_.empty()) return Wrong("has a ')' too many");
    return root;
  }

 private:
  template <typename... Parts>
  static absl::Status Wrong(const Parts&... parts) {
    return absl::InvalidArgumentError(absl::StrCat(parts...));
  }
  bool Take(char c) {
    if (text_.empty() || text_[0] != c) return false;
    text_.remove_prefix(1);
    return true;
  }
  bool Take(absl::string_view prefix) {
    if (text_.substr(0, prefix.size()) != prefix) return false;
    text_.remove_prefix(prefix.size());
    return true;
  }
  bool AtEnd() const { return text_.empty() || text_[0] == '|' || text_[0] == ')'; }

  absl::StatusOr<RegexNode> Alternative() {
    RegexNode node{.kind = Kind::kAlternative};
    node.from_begin = Take('^');
    while (!AtEnd()) {
      if (Take('$')) {
        node.to_end = true;
        if (!AtEnd()) break;
        return node;
      }
      ASSIGN_OR_RETURN(RegexNode part, Quantified());
      node.parts.push_back(std::move(part));
    }
    if (!AtEnd()) return Wrong("has a '$' that does not stand at the end");
    return node;
  }

  absl::StatusOr<RegexNode> Sequence() {
    RegexNode node{.kind = Kind::kSequence};
    while (!AtEnd()) {
      ASSIGN_OR_RETURN(RegexNode part, Quantified());
      node.parts.push_back(std::move(part));
    }
    return node;
  }

  absl::StatusOr<RegexNode> Quantified() {
    ASSIGN_OR_RETURN(RegexNode atom, Atom());
    std::pair<int32_t, int32_t> times;
    if (Take('*')) {
      times = {0, -1};
    } else if (Take('+')) {
      times = {1, -1};
    } else if (Take('?')) {
      times = {0, 1};
    } else if (!text_.empty() && text_[0] == '{') {
      ASSIGN_OR_RETURN(times, Braces());
    } else {
      return atom;
    }
    Take('?');  // as few as possible: the same texts
    if (!text_.empty() && (text_[0] == '*' || text_[0] == '+' || text_[0] == '?' || text_[0] == '{')) {
      return Wrong("has a quantifier behind a quantifier");
    }
    RegexNode node{.kind = Kind::kRepeat};
    node.least = times.first;
    node.most = times.second;
    // Times that take nothing would not end.
    if (atom.MayBeEmpty()) {
      if (node.most > 1) return Wrong("repeats {n,m} times what may be empty, which is not supported");
      node.least = 0;
    }
    node.parts.push_back(std::move(atom));
    return node;
  }

  absl::StatusOr<int32_t> Number() {
    int64_t number = 0;
    if (text_.empty() || !absl::ascii_isdigit(text_[0]))
      return Wrong("has a '{' without numbers; a brace itself is '\\{'");
    while (!text_.empty() && absl::ascii_isdigit(text_[0])) {
      number = number * 10 + (text_[0] - '0');
      text_.remove_prefix(1);
      if (number > kRegexRepeatMax) return Wrong("repeats more than ", kRegexRepeatMax, " times");
    }
    return static_cast<int32_t>(number);
  }

  absl::StatusOr<std::pair<int32_t, int32_t>> Braces() {
    Take('{');
    ASSIGN_OR_RETURN(const int32_t least, Number());
    int32_t most = least;
    if (Take(',')) {
      most = -1;
      if (!text_.empty() && text_[0] != '}') {
        ASSIGN_OR_RETURN(most, Number());
      }
    }
    if (!Take('}')) return Wrong("has a '{' without '}'");
    if (most >= 0 && most < least) return Wrong("repeats {", least, ",", most, "}, which is no range");
    return std::pair(least, most);
  }

  absl::StatusOr<RegexNode> Group() {
    if (++depth_ > kGroupDepthMax) return Wrong("has groups nested deeper than ", kGroupDepthMax);
    if (Take('?')) {
      if (Take('<')) {
        if (!text_.empty() && (text_[0] == '=' || text_[0] == '!'))
          return Wrong("looks behind, which is not supported");
        const size_t end = text_.find('>');
        if (end == absl::string_view::npos) return Wrong("has a group name without '>'");
        text_.remove_prefix(end + 1);
      } else if (!Take(':')) {
        return Wrong("has a group that begins with '(?", text_.substr(0, 1), "', which is not supported");
      }
    }
    RegexNode node{.kind = Kind::kEither};
    do {
      ASSIGN_OR_RETURN(RegexNode part, Sequence());
      node.parts.push_back(std::move(part));
    } while (Take('|'));
    if (!Take(')')) return Wrong("has a '(' without ')'");
    --depth_;
    return node;
  }

  absl::StatusOr<RegexNode> Atom() {
    RegexNode node{.kind = Kind::kChar};
    if (Take('(')) return Group();
    if (Take('.')) {
      node.set = AnyButLineEnds();
    } else if (Take('[')) {
      ASSIGN_OR_RETURN(node.set, Class());
    } else if (Take('\\')) {
      ASSIGN_OR_RETURN(node.set, Escape(/*in_class=*/false));
    } else if (absl::StrContains("^$", text_.substr(0, 1))) {
      return Wrong("has a '", text_.substr(0, 1), "' within; they are supported at the ends of the pattern and of its ",
                   "alternatives");
    } else if (absl::StrContains("*+?{", text_.substr(0, 1))) {
      return Wrong("has a quantifier '", text_.substr(0, 1), "' with nothing before it");
    } else {
      node.set = One(TakeChar());
    }
    return node;
  }

  // REQUIRES: text left, UTF-8
  uint32_t TakeChar() {
    const Utf8Step step = NextUtf8(text_);
    text_.remove_prefix(step.bytes);
    return step.code_point;
  }

  absl::StatusOr<uint32_t> Hex(int digits) {
    uint32_t point = 0;
    for (int i = 0; i < digits; ++i) {
      if (text_.empty() || !absl::ascii_isxdigit(text_[0])) return Wrong("has an escape with too few digits");
      const char c = absl::ascii_tolower(text_[0]);
      point = point * 16 + static_cast<uint32_t>(absl::ascii_isdigit(c) ? c - '0' : c - 'a' + 10);
      text_.remove_prefix(1);
    }
    return point;
  }

  // Behind the backslash.
  absl::StatusOr<CharSet> Escape(bool in_class) {
    if (text_.empty()) return Wrong("ends with a backslash");
    const uint32_t c = TakeChar();
    switch (c) {
      case 'd':
        return Digits();
      case 'D':
        return Digits().Complement();
      case 'w':
        return WordChars();
      case 'W':
        return WordChars().Complement();
      case 's':
        return Spaces();
      case 'S':
        return Spaces().Complement();
      case 'n':
        return One('\n');
      case 'r':
        return One('\r');
      case 't':
        return One('\t');
      case 'f':
        return One('\f');
      case 'v':
        return One('\v');
      case 'x': {
        ASSIGN_OR_RETURN(const uint32_t point, Hex(2));
        return One(point);
      }
      case 'u': {
        ASSIGN_OR_RETURN(const uint32_t point, Hex(4));
        if (One(point).empty()) return Wrong("names half of a surrogate pair");
        return One(point);
      }
      default:
        break;
    }
    if (c == 'b' && in_class) return One('\b');
    if (c < 0x80 && absl::ascii_isalnum(static_cast<unsigned char>(c))) {
      return Wrong("has the escape '\\", std::string(1, static_cast<char>(c)), "', which is not supported");
    }
    return One(c);
  }

  // One end of a range, or a set of its own.
  absl::StatusOr<CharSet> ClassAtom() {
    if (Take('\\')) return Escape(/*in_class=*/true);
    return One(TakeChar());
  }

  absl::StatusOr<CharSet> Class() {
    const bool negated = Take('^');
    CharSet set;
    while (!Take(']')) {
      if (text_.empty()) return Wrong("has a '[' without ']'");
      ASSIGN_OR_RETURN(const CharSet low, ClassAtom());
      const bool range = text_.size() >= 2 && text_[0] == '-' && text_[1] != ']';
      if (!range) {
        set.Add(low);
        continue;
      }
      Take('-');
      ASSIGN_OR_RETURN(const CharSet high, ClassAtom());
      const auto from = low.Ranges(), to = high.Ranges();
      const auto single = [](const auto& ranges) { return ranges.size() == 1 && ranges[0].first == ranges[0].second; };
      if (!single(from) || !single(to) || from[0].first > to[0].first) return Wrong("has a class with a bad range");
      set.Add(from[0].first, to[0].first);
    }
    if (negated) set = set.Complement();
    if (set.empty()) return Wrong("has a class that holds no character");
    return set;
  }

  absl::string_view text_;
  int depth_ = 0;
};

// Turns nodes into parts of a program.
class Writer {
 public:
  Writer(GrammarBuilder& builder, const CharWriter& write) : builder_(builder), write_(write) {}

  int32_t Append(const RegexNode& node, int32_t next) {
    switch (node.kind) {
      case Kind::kChar:
        return write_(node.set, next);
      case Kind::kEither: {
        int32_t begin = builder_.Fail();
        for (const RegexNode& part : node.parts) begin = builder_.Split(Append(part, next), begin);
        return begin;
      }
      case Kind::kRepeat:
        return AppendRepeat(node, next);
      case Kind::kSequence:
      case Kind::kAlternative:
        for (auto part = node.parts.rbegin(); part != node.parts.rend(); ++part) next = Append(*part, next);
        return next;
    }
    return builder_.Fail();
  }

  int32_t Anything(int32_t next) {
    if (!anything_.has_value()) {
      anything_ = builder_.NewRule();
      builder_.SetRule(*anything_, write_(CharSet::All(), builder_.Return()));
    }
    return builder_.Repeat(*anything_, 0, -1, next);
  }

 private:
  int32_t AppendRepeat(const RegexNode& node, int32_t next) {
    if (node.most == 1) {
      const int32_t one = Append(node.parts[0], next);
      return node.least == 1 ? one : builder_.Optional(one, next);
    }
    const int32_t rule = builder_.NewRule();
    builder_.SetRule(rule, Append(node.parts[0], builder_.Return()));
    return builder_.Repeat(rule, node.least, node.most, next);
  }

  GrammarBuilder& builder_;
  const CharWriter& write_;
  std::optional<int32_t> anything_;
};

}  // namespace

absl::StatusOr<RegexPattern> RegexPattern::Parse(absl::string_view pattern) {
  if (static_cast<int64_t>(pattern.size()) > kRegexBytesMax) {
    return absl::InvalidArgumentError(absl::StrCat("has ", pattern.size(), " bytes; at most ", kRegexBytesMax));
  }
  if (!IsUtf8(pattern)) return absl::InvalidArgumentError("is not UTF-8");
  ASSIGN_OR_RETURN(RegexNode root, Parser(pattern).Parse());
  RegexPattern parsed;
  parsed.root_ = std::make_shared<const RegexNode>(std::move(root));
  return parsed;
}

int32_t RegexPattern::Append(GrammarBuilder& builder, const CharWriter& write, bool whole, int32_t next) const {
  Writer writer(builder, write);
  int32_t begin = builder.Fail();
  for (const RegexNode& alternative : root_->parts) {
    int32_t at = whole || alternative.to_end ? next : writer.Anything(next);
    at = writer.Append(alternative, at);
    if (!whole && !alternative.from_begin) at = writer.Anything(at);
    begin = builder.Split(at, begin);
  }
  return begin;
}

}  // namespace conclave
