#include "moe/tokenizer/jinja/lexer.h"

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "moe/base/status_macros.h"
#include "moe/tokenizer/jinja/string_literal.h"
#include "moe/tokenizer/jinja/text.h"

namespace conclave::jinja {
namespace {

// Longer operators first, so that "//" is not read as two "/".
constexpr const char* kOperators[] = {"//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[",
                                      "]",  "(",  ")",  "{",  "}",  ">",  "<", "=", ".", ":", "|", ","};

// Every newline is "\n", and the last one is dropped.
std::string NormalizeNewlines(absl::string_view source) {
  std::string result;
  result.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r' && i + 1 < source.size() && source[i + 1] == '\n') continue;
    result.push_back(source[i] == '\r' ? '\n' : source[i]);
  }
  if (!result.empty() && result.back() == '\n') result.pop_back();
  return result;
}

bool IsNameStart(char c) { return absl::ascii_isalpha(c) || c == '_'; }
bool IsNamePart(char c) { return absl::ascii_isalnum(c) || c == '_'; }

class Lexer {
 public:
  explicit Lexer(std::string source) : source_(std::move(source)) {}

  absl::StatusOr<std::vector<Token>> Run() {
    while (at_ < source_.size()) RETURN_IF_ERROR(DataAndTag());
    Add(TokenKind::kEnd, "");
    return std::move(tokens_);
  }

 private:
  absl::string_view Rest() const { return absl::string_view(source_).substr(at_); }
  bool At(absl::string_view text) const { return absl::StartsWith(Rest(), text); }
  absl::Status Error(absl::string_view message) const { return LineError(line_, message); }
  void Add(TokenKind kind, std::string text) { tokens_.push_back({kind, std::move(text), line_}); }
  void Advance(size_t bytes) {
    line_ += static_cast<int>(std::count(source_.begin() + at_, source_.begin() + at_ + bytes, '\n'));
    at_ += bytes;
  }
  void SkipSpace() { Advance(StripSpace(Rest(), /*left=*/true, /*right=*/false).begin); }

  absl::Status DataAndTag();
  void AddData(size_t end, char sign, bool is_print);
  absl::Status Comment();
  absl::Status Tag(const char* close);
  bool CloseTag(const char* close);
  absl::Status Word();
  absl::Status String();
  absl::Status Number();

  std::string source_;
  size_t at_ = 0;
  int line_ = 1;
  bool line_starting_ = true;  // the last tag ended with a newline, or nothing came before
  std::vector<Token> tokens_;
};

absl::Status Lexer::DataAndTag() {
  size_t open = at_;
  while (true) {
    open = source_.find('{', open);
    if (open == std::string::npos || open + 1 >= source_.size()) open = source_.size();
    if (open == source_.size() || absl::StrContains("{%#", absl::string_view(source_).substr(open + 1, 1))) break;
    ++open;
  }
  if (open == source_.size()) {
    AddData(open, '+', /*is_print=*/false);
    return absl::OkStatus();
  }
  const char type = source_[open + 1];
  const char after = open + 2 < source_.size() ? source_[open + 2] : '\0';
  const char sign = after == '-' || after == '+' ? after : '\0';
  AddData(open, sign, /*is_print=*/type == '{');
  Advance(2 + (sign != '\0'));
  if (type == '#') return Comment();
  Add(type == '{' ? TokenKind::kPrintBegin : TokenKind::kBlockBegin, "");
  return Tag(type == '{' ? "}}" : "%}");
}

// The text up to the tag at `end`, less what the tag strips from it.
void Lexer::AddData(size_t end, char sign, bool is_print) {
  absl::string_view text = absl::string_view(source_).substr(at_, end - at_);
  if (sign == '-') {
    text = text.substr(0, StripSpace(text, /*left=*/false, /*right=*/true).end);
  } else if (sign != '+' && !is_print) {
    const size_t newline = text.rfind('\n');
    const size_t line_begin = newline == absl::string_view::npos ? 0 : newline + 1;
    const absl::string_view indent = text.substr(line_begin);
    const bool only_space = StripSpace(indent, /*left=*/true, /*right=*/false).begin == indent.size();
    if ((line_begin > 0 || line_starting_) && only_space) text = text.substr(0, line_begin);
  }
  if (!text.empty()) Add(TokenKind::kData, std::string(text));
  Advance(end - at_);
}

absl::Status Lexer::Comment() {
  const int line = line_;
  const size_t close = source_.find("#}", at_);
  if (close == std::string::npos) return LineError(line, "a comment is not closed");
  const bool has_sign = close > at_ && (source_[close - 1] == '-' || source_[close - 1] == '+');
  Advance(close - has_sign - at_);
  CloseTag("#}");
  return absl::OkStatus();
}

// At the end of a tag: takes it together with the white space that it strips after itself.
bool Lexer::CloseTag(const char* close) {
  const size_t begin = at_;
  const bool is_print = absl::string_view(close) == "}}";
  if (At(absl::StrCat("-", close))) {
    Advance(3);
    SkipSpace();
  } else if (!is_print && At(absl::StrCat("+", close))) {
    Advance(3);
  } else if (At(close)) {
    Advance(2);
    if (!is_print && At("\n")) Advance(1);
  } else {
    return false;
  }
  line_starting_ = at_ > begin && source_[at_ - 1] == '\n';
  return true;
}

absl::Status Lexer::Tag(const char* close) {
  const int line = line_;
  int brackets = 0;  // "}}" within a mapping closes the mapping, not the tag
  while (true) {
    SkipSpace();
    if (at_ >= source_.size()) return LineError(line, absl::StrCat("a tag is not closed by ", close));
    if (brackets == 0 && CloseTag(close)) break;
    const char c = source_[at_];
    if (IsNameStart(c)) {
      RETURN_IF_ERROR(Word());
    } else if (c == '\'' || c == '"') {
      RETURN_IF_ERROR(String());
    } else if (absl::ascii_isdigit(c)) {
      RETURN_IF_ERROR(Number());
    } else {
      const auto* found =
          std::find_if(std::begin(kOperators), std::end(kOperators), [&](const char* text) { return At(text); });
      if (found == std::end(kOperators)) return Error(absl::StrCat("unexpected character '", std::string(1, c), "'"));
      brackets += absl::StrContains("([{", *found) - absl::StrContains(")]}", *found);
      if (brackets < 0) return Error(absl::StrCat("unexpected '", *found, "'"));
      Add(TokenKind::kOperator, *found);
      Advance(absl::string_view(*found).size());
    }
  }
  Add(absl::string_view(close) == "}}" ? TokenKind::kPrintEnd : TokenKind::kBlockEnd, "");
  return absl::OkStatus();
}

absl::Status Lexer::Word() {
  size_t end = at_;
  while (end < source_.size() && IsNamePart(source_[end])) ++end;
  std::string name = source_.substr(at_, end - at_);
  if (name == "raw" && tokens_.back().kind == TokenKind::kBlockBegin) return Error("a raw block is not supported");
  Add(TokenKind::kName, std::move(name));
  Advance(end - at_);
  return absl::OkStatus();
}

absl::Status Lexer::String() {
  const char quote = source_[at_];
  size_t end = at_ + 1;
  while (end < source_.size() && source_[end] != quote) end += source_[end] == '\\' ? 2 : 1;
  if (end >= source_.size()) return Error("a string is not closed");
  const absl::string_view literal = absl::string_view(source_).substr(at_ + 1, end - at_ - 1);
  absl::StatusOr<std::string> text = UnescapeString(literal);
  if (!text.ok()) return Error(text.status().message());
  Add(TokenKind::kString, *std::move(text));
  Advance(end + 1 - at_);
  return absl::OkStatus();
}

absl::Status Lexer::Number() {
  size_t end = at_;
  const auto digits = [&] {
    while (end < source_.size() && absl::ascii_isdigit(source_[end])) ++end;
  };
  digits();
  const bool is_float = end + 1 < source_.size() && source_[end] == '.' && absl::ascii_isdigit(source_[end + 1]);
  if (is_float) {
    ++end;
    digits();
  }
  const std::string text = source_.substr(at_, end - at_);
  Add(is_float ? TokenKind::kFloat : TokenKind::kInteger, text);
  const bool known =
      is_float ? absl::SimpleAtod(text, &tokens_.back().real) : absl::SimpleAtoi(text, &tokens_.back().integer);
  if (!known || (end < source_.size() && IsNamePart(source_[end]))) {
    return Error(absl::StrCat("the number that begins with ", text.substr(0, 30), " is not supported"));
  }
  Advance(end - at_);
  return absl::OkStatus();
}

}  // namespace

absl::Status LineError(int line, absl::string_view message) {
  return absl::InvalidArgumentError(absl::StrCat("line ", line, ": ", std::string(message)));
}

absl::StatusOr<std::vector<Token>> Tokenize(absl::string_view source) { return Lexer(NormalizeNewlines(source)).Run(); }

}  // namespace conclave::jinja
