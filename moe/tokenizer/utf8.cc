#include "moe/tokenizer/utf8.h"

namespace conclave {
namespace {

// The continuation bytes that a lead byte asks for and the range of the first of them (Unicode, table 3-7).
struct Lead {
  int continuations;
  uint8_t low, high;
};

Lead LeadOf(uint8_t byte) {
  if (byte < 0x80) return {0, 0, 0};
  if (byte >= 0xC2 && byte <= 0xDF) return {1, 0x80, 0xBF};
  if (byte == 0xE0) return {2, 0xA0, 0xBF};
  if (byte == 0xED) return {2, 0x80, 0x9F};
  if (byte >= 0xE1 && byte <= 0xEF) return {2, 0x80, 0xBF};
  if (byte == 0xF0) return {3, 0x90, 0xBF};
  if (byte >= 0xF1 && byte <= 0xF3) return {3, 0x80, 0xBF};
  if (byte == 0xF4) return {3, 0x80, 0x8F};
  return {-1, 0, 0};
}

constexpr char kReplacement[] = "\xEF\xBF\xBD";

}  // namespace

Utf8Step NextUtf8(absl::string_view text) {
  const uint8_t first = static_cast<uint8_t>(text[0]);
  Lead lead = LeadOf(first);
  if (lead.continuations == 0) return {Utf8Form::kCharacter, 1, first};
  if (lead.continuations < 0) return {Utf8Form::kInvalid, 1, 0};
  uint32_t code_point = first & (0x3F >> lead.continuations);
  for (int i = 1; i <= lead.continuations; ++i) {
    if (static_cast<size_t>(i) == text.size()) return {Utf8Form::kIncomplete, i, 0};
    const uint8_t byte = static_cast<uint8_t>(text[i]);
    if (byte < lead.low || byte > lead.high) return {Utf8Form::kInvalid, i, 0};
    code_point = code_point << 6 | (byte & 0x3F);
    lead.low = 0x80;
    lead.high = 0xBF;
  }
  return {Utf8Form::kCharacter, lead.continuations + 1, code_point};
}

bool IsUtf8(absl::string_view text) {
  while (!text.empty()) {
    const Utf8Step step = NextUtf8(text);
    if (step.form != Utf8Form::kCharacter) return false;
    text.remove_prefix(step.bytes);
  }
  return true;
}

int64_t Utf8Length(absl::string_view text) {
  int64_t length = 0;
  for (char c : text) length += (static_cast<uint8_t>(c) & 0xC0) != 0x80;
  return length;
}

bool IsUnicodeSpace(uint32_t c) {
  return (c >= 0x09 && c <= 0x0D) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

bool IsPythonSpace(uint32_t code_point) {
  return IsUnicodeSpace(code_point) || (code_point >= 0x1C && code_point <= 0x1F);
}

size_t AppendLossyUtf8(absl::string_view bytes, bool final, std::string* out) {
  while (!bytes.empty()) {
    const Utf8Step step = NextUtf8(bytes);
    if (step.form == Utf8Form::kIncomplete && !final) return bytes.size();
    if (step.form == Utf8Form::kCharacter) {
      out->append(bytes.data(), step.bytes);
    } else {
      out->append(kReplacement);
    }
    bytes.remove_prefix(step.bytes);
  }
  return 0;
}

}  // namespace conclave
