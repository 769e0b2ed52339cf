#include "moe/tokenizer/jinja/string_literal.h"

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"

namespace conclave::jinja {
namespace {

// Single-character escapes, each followed by what it stands for. A backslash before a newline stands for nothing.
constexpr absl::string_view kSimple = "\\\\''\"\"a\ab\bf\fn\nr\rt\tv\v";

// Reads `count` hexadecimal digits; -1 where there are fewer.
int64_t HexValue(absl::string_view digits, size_t count) {
  if (digits.size() < count) return -1;
  int64_t value = 0;
  for (char c : digits.substr(0, count)) {
    if (!absl::ascii_isxdigit(c)) return -1;
    value = value * 16 + (absl::ascii_isdigit(c) ? c - '0' : absl::ascii_tolower(c) - 'a' + 10);
  }
  return value;
}

// Appends the character of the escape at the start of `rest` (after the backslash); returns its length.
absl::StatusOr<size_t> AppendEscape(absl::string_view rest, std::string* out) {
  const char c = rest[0];
  for (size_t i = 0; i < kSimple.size(); i += 2) {
    if (kSimple[i] != c) continue;
    out->push_back(kSimple[i + 1]);
    return 1;
  }
  if (c == '\n') return 1;
  if (c == 'N') return absl::InvalidArgumentError("the escape \\N{name} is not supported");
  if (c == 'x' || c == 'u' || c == 'U') {
    const size_t count = c == 'x' ? 2 : c == 'u' ? 4 : 8;
    const int64_t value = HexValue(rest.substr(1), count);
    if (value < 0 || value > 0x10FFFF || (value >= 0xD800 && value < 0xE000)) {
      return absl::InvalidArgumentError(absl::StrCat("the escape \\", std::string(1, c), " names no character"));
    }
    AppendUtf8(static_cast<uint32_t>(value), out);
    return count + 1;
  }
  size_t digits = 0;
  uint32_t value = 0;
  while (digits < 3 && digits < rest.size() && rest[digits] >= '0' && rest[digits] <= '7') {
    value = value * 8 + (rest[digits++] - '0');
  }
  if (digits > 0) {
    AppendUtf8(value, out);
    return digits;
  }
  out->push_back('\\');
  return 0;
}

}  // namespace

absl::StatusOr<std::string> UnescapeString(absl::string_view literal) {
  std::string result;
  for (size_t i = 0; i < literal.size();) {
    if (literal[i] != '\\' || i + 1 == literal.size()) {
      result.push_back(literal[i++]);
      continue;
    }
    const absl::StatusOr<size_t> length = AppendEscape(literal.substr(i + 1), &result);
    if (!length.ok()) return length.status();
    i += 1 + *length;
  }
  return result;
}

void AppendUtf8(uint32_t c, std::string* out) {
  if (c < 0x80) {
    out->push_back(static_cast<char>(c));
    return;
  }
  const int continuations = c < 0x800 ? 1 : c < 0x10000 ? 2 : 3;
  constexpr uint8_t kLead[] = {0, 0xC0, 0xE0, 0xF0};
  out->push_back(static_cast<char>(kLead[continuations] | c >> (6 * continuations)));
  for (int i = continuations - 1; i >= 0; --i) out->push_back(static_cast<char>(0x80 | (c >> (6 * i) & 0x3F)));
}

}  // namespace conclave::jinja
