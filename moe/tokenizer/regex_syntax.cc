#include "moe/tokenizer/regex_syntax.h"

#include <algorithm>
#include <iterator>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "moe/base/status_macros.h"

namespace conclave {
namespace {

// Unicode's White_Space and its complement, as items of a character class.
constexpr char kSpace[] =
    R"(\x{9}-\x{d}\x{20}\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})";
constexpr char kNotSpace[] =
    R"(\x{0}-\x{8}\x{e}-\x{1f}\x{21}-\x{84}\x{86}-\x{9f}\x{a1}-\x{167f}\x{1681}-\x{1fff}\x{200b}-\x{2027})"
    R"(\x{202a}-\x{202e}\x{2030}-\x{205e}\x{2060}-\x{2fff}\x{3001}-\x{10ffff})";

// Every general category; each code point has exactly one.
constexpr const char* kCategories[] = {"Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Me", "Nd", "Nl",
                                       "No", "Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po", "Sm", "Sc",
                                       "Sk", "So", "Zs", "Zl", "Zp", "Cc", "Cf", "Cs", "Co", "Cn"};

class Translator {
 public:
  explicit Translator(absl::string_view pattern) : pattern_(pattern) {}

  absl::StatusOr<std::string> Run() {
    while (at_ < pattern_.size()) RETURN_IF_ERROR(Item());
    return std::move(out_);
  }

 private:
  absl::string_view Rest() const { return pattern_.substr(at_); }
  bool Take(absl::string_view text) {
    if (!absl::StartsWith(Rest(), text)) return false;
    at_ += text.size();
    return true;
  }
  absl::Status Refuse(absl::string_view what) const {
    return absl::InvalidArgumentError(absl::StrCat("the pattern '", std::string(pattern_), "' uses ", std::string(what),
                                                   " at byte ", at_, ", which is not supported"));
  }

  absl::Status Item();
  absl::Status Escape(bool in_class, std::string* out);
  absl::Status Property(std::string* out);
  absl::Status Class();
  absl::Status Intersection(bool negated, absl::string_view left);
  absl::Status ClassItems(std::string* out);

  absl::string_view pattern_;
  size_t at_ = 0;
  std::string out_;
};

absl::Status Translator::Item() {
  if (pattern_[at_] == '\\') return Escape(/*in_class=*/false, &out_);
  if (pattern_[at_] == '[') return Class();
  if (absl::StartsWith(Rest(), "(*")) return Refuse("(*");
  if (absl::StartsWith(Rest(), "(?")) {
    for (absl::string_view group : {"(?:", "(?i:", "(?i)", "(?=", "(?!", "(?<=", "(?<!", "(?>"}) {
      if (!Take(group)) continue;
      absl::StrAppend(&out_, std::string(group));
      return absl::OkStatus();
    }
    return Refuse("a group or flag that begins with (? and");
  }
  if (absl::StartsWith(Rest(), "{,")) return Refuse("{,n}");
  if (absl::StartsWith(Rest(), "}+")) return Refuse("}+");
  out_.push_back(pattern_[at_++]);
  return absl::OkStatus();
}

absl::Status Translator::Escape(bool in_class, std::string* out) {
  if (at_ + 1 == pattern_.size()) return Refuse("a backslash at its end");
  const char c = pattern_[at_ + 1];
  if (c == 'p' || c == 'P') return Property(out);
  if (c == 's' || c == 'S') {
    const char* items = c == 's' ? kSpace : kNotSpace;
    absl::StrAppend(out, in_class ? "" : "[", items, in_class ? "" : "]");
  } else if (c == 'x') {  // A code point in hexadecimal digits, which PCRE2 reads alike.
    absl::StrAppend(out, "\\x");
  } else if (absl::ascii_isalnum(c) && !absl::StrContains(in_class ? "rntfdD" : "rntfdDAzZ", std::string(1, c))) {
    return Refuse(absl::StrCat("\\", std::string(1, c)));
  } else {
    absl::StrAppend(out, "\\", std::string(1, c));
  }
  at_ += 2;
  return absl::OkStatus();
}

absl::Status Translator::Property(std::string* out) {
  const absl::string_view letter = pattern_.substr(at_, 2);
  const size_t open = at_ + 2;
  if (open >= pattern_.size() || pattern_[open] != '{') {  // \pL
    if (open >= pattern_.size() || !absl::ascii_isalpha(pattern_[open])) return Refuse("\\p without a name");
    absl::StrAppend(out, std::string(letter), std::string(1, pattern_[open]));
    at_ = open + 1;
    return absl::OkStatus();
  }
  const size_t close = pattern_.find('}', open);
  if (close == absl::string_view::npos) return Refuse("\\p{ without }");
  absl::string_view name = pattern_.substr(open + 1, close - open - 1);
  const bool caret = !name.empty() && name[0] == '^';
  if (caret) name.remove_prefix(1);
  if (name.empty() || !std::all_of(name.begin(), name.end(), [](char c) { return absl::ascii_isalpha(c); })) {
    return Refuse("a property name that is not letters only");
  }
  // One or two letters name a general category, more a script.
  absl::StrAppend(out, std::string(letter), "{", caret ? "^" : "", name.size() > 2 && name != "Any" ? "sc:" : "",
                  std::string(name), "}");
  at_ = close + 1;
  return absl::OkStatus();
}

// The items of a class up to its `]` or `&&`, in PCRE2's spelling.
absl::Status Translator::ClassItems(std::string* out) {
  bool first = true;
  for (; at_ < pattern_.size(); first = false) {
    if (pattern_[at_] == '[') return Refuse("a class within a class");
    if (pattern_[at_] == ']') return first ? Refuse("an empty class") : absl::OkStatus();
    if (absl::StartsWith(Rest(), "&&")) return absl::OkStatus();
    if (pattern_[at_] == '\\') {
      RETURN_IF_ERROR(Escape(/*in_class=*/true, out));
    } else {
      out->push_back(pattern_[at_++]);
    }
  }
  return Refuse("[ without ]");
}

absl::Status Translator::Class() {
  ++at_;
  const bool negated = Take("^");
  std::string items;
  const size_t begin = at_;
  RETURN_IF_ERROR(ClassItems(&items));
  if (absl::StartsWith(Rest(), "&&")) return Intersection(negated, pattern_.substr(begin, at_ - begin));
  ++at_;
  absl::StrAppend(&out_, negated ? "[^" : "[", items, "]");
  return absl::OkStatus();
}

// [A&&[^B]] is [^ not-A B]; not-A is a list of categories when A is one. A lookahead before each character would say
// the same, but PCRE2 keeps a frame for every turn of such a loop: too much for a word of a megabyte.
absl::Status Translator::Intersection(bool negated, absl::string_view left) {
  if (negated || !Take("&&[^")) return Refuse("a class intersection other than [A&&[^B]]");
  std::vector<absl::string_view> categories;
  while (!left.empty()) {
    const size_t close = left.find('}');
    const absl::string_view name = left.substr(0, close == absl::string_view::npos ? 0 : close);
    if (!absl::StartsWith(name, "\\p{") || name.size() < 4 || name.size() > 5) {
      return Refuse("a class intersection whose left side is not a list of general categories");
    }
    categories.push_back(name.substr(3));
    left.remove_prefix(close + 1);
  }
  std::string others;
  for (absl::string_view category : kCategories) {
    const auto covers = [&](absl::string_view name) { return absl::StartsWith(category, name); };
    if (std::none_of(categories.begin(), categories.end(), covers)) {
      absl::StrAppend(&others, "\\p{", std::string(category), "}");
    }
  }
  std::string excluded;
  RETURN_IF_ERROR(ClassItems(&excluded));
  if (!Take("]]")) return Refuse("a class intersection other than [A&&[^B]]");
  absl::StrAppend(&out_, "[^", others, excluded, "]");
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::string> ToPcre2Syntax(absl::string_view pattern) {
  // From every start within a run of spaces this would run to its end and back: quadratic. Only the first space of a
  // run, or the place where the last match ended, can begin a match that an earlier start did not find.
  if (pattern == "\\s+$") return absl::StrCat("(?:\\G|(?<![", kSpace, "]))[", kSpace, "]+$");
  return Translator(pattern).Run();
}

std::string QuoteForPcre2(absl::string_view text) {
  std::string quoted;
  for (char c : text) {
    if (absl::ascii_ispunct(c)) quoted.push_back('\\');
    quoted.push_back(c);
  }
  return quoted;
}

}  // namespace conclave
