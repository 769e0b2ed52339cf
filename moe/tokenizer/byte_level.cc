#include "moe/tokenizer/byte_level.h"

#include <array>

#include "moe/tokenizer/utf8.h"

namespace conclave {
namespace {

constexpr int kAlphabetEnd = 256 + 68;  // code points at or above this stand for no byte

bool StandsForItself(int byte) {
  return (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || (byte >= 0xAE && byte <= 0xFF);
}

struct Alphabet {
  std::array<uint16_t, 256> code_point;
  std::array<int16_t, kAlphabetEnd> byte;  // -1: not of the alphabet
};

const Alphabet& GetAlphabet() {
  static const Alphabet alphabet = [] {
    Alphabet result;
    result.byte.fill(-1);
    uint16_t next = 256;
    for (int byte = 0; byte < 256; ++byte) {
      result.code_point[byte] = StandsForItself(byte) ? static_cast<uint16_t>(byte) : next++;
      result.byte[result.code_point[byte]] = static_cast<int16_t>(byte);
    }
    return result;
  }();
  return alphabet;
}

void AppendCharacter(uint8_t byte, std::string* out) {
  const uint16_t c = GetAlphabet().code_point[byte];
  if (c < 0x80) {
    out->push_back(static_cast<char>(c));
  } else {  // The alphabet ends far below U+0800.
    out->push_back(static_cast<char>(0xC0 | c >> 6));
    out->push_back(static_cast<char>(0x80 | (c & 0x3F)));
  }
}

}  // namespace

std::string ByteLevelCharacter(uint8_t byte) {
  std::string result;
  AppendCharacter(byte, &result);
  return result;
}

std::string ToByteLevel(absl::string_view bytes) {
  std::string result;
  for (char c : bytes) AppendCharacter(static_cast<uint8_t>(c), &result);
  return result;
}

std::optional<std::string> FromByteLevel(absl::string_view token) {
  const Alphabet& alphabet = GetAlphabet();
  std::string result;
  while (!token.empty()) {
    const Utf8Step step = NextUtf8(token);
    if (step.form != Utf8Form::kCharacter || step.code_point >= kAlphabetEnd) return std::nullopt;
    const int byte = alphabet.byte[step.code_point];
    if (byte < 0) return std::nullopt;
    result.push_back(static_cast<char>(byte));
    token.remove_prefix(step.bytes);
  }
  return result;
}

}  // namespace conclave
