#include "moe/tokenizer/added_tokens.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "moe/tokenizer/utf8.h"

namespace conclave {
namespace {

// How many bytes of white space `text` begins with.
size_t LeadingSpaceBytes(absl::string_view text) {
  size_t bytes = 0;
  while (bytes < text.size()) {
    const Utf8Step step = NextUtf8(text.substr(bytes));
    if (step.form != Utf8Form::kCharacter || !IsUnicodeSpace(step.code_point)) break;
    bytes += step.bytes;
  }
  return bytes;
}

size_t TrailingSpaceBytes(absl::string_view text) {
  size_t bytes = 0;
  while (bytes < text.size()) {
    size_t start = text.size() - bytes - 1;
    while (start > 0 && (static_cast<uint8_t>(text[start]) & 0xC0) == 0x80) --start;
    const Utf8Step step = NextUtf8(text.substr(start, text.size() - bytes - start));
    if (step.form != Utf8Form::kCharacter || !IsUnicodeSpace(step.code_point)) break;
    bytes += step.bytes;
  }
  return bytes;
}

}  // namespace

bool IsControlToken(const AddedToken& token) {
  const auto spelled = [&](absl::string_view open, absl::string_view close) {
    return token.content.size() > open.size() + close.size() && absl::StartsWith(token.content, open) &&
           absl::EndsWith(token.content, close);
  };
  return token.special || spelled("<", ">") || spelled("[", "]") || spelled("◁", "▷");
}

void AddedTokenMatcher::Add(const AddedToken& token) {
  if (token.content.empty()) return;
  int32_t node = 0;
  for (char c : token.content) {
    const uint64_t key = static_cast<uint64_t>(node) << 8 | static_cast<uint8_t>(c);
    const auto [child, is_new] = children_.try_emplace(key, static_cast<int32_t>(token_at_.size()));
    node = child->second;
    if (is_new) token_at_.push_back(kNoToken);
  }
  first_bytes_[static_cast<uint8_t>(token.content[0])] = true;
  token_at_[node] = static_cast<int32_t>(tokens_.size());
  tokens_.push_back(token);
}

int32_t AddedTokenMatcher::Child(int32_t node, char byte) const {
  const auto child = children_.find(static_cast<uint64_t>(node) << 8 | static_cast<uint8_t>(byte));
  return child == children_.end() ? -1 : child->second;
}

int32_t AddedTokenMatcher::LongestAt(absl::string_view text, size_t control_bytes) const {
  int32_t best = kNoToken;
  int32_t node = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    node = Child(node, text[i]);
    if (node < 0) break;
    const int32_t token = token_at_[node];
    if (token != kNoToken && (i < control_bytes || !IsControlToken(tokens_[token]))) best = token;
  }
  return best;
}

void AddedTokenMatcher::Split(absl::string_view whole, size_t begin, size_t end,
                              absl::Span<const TextRange> control_ranges, absl::FunctionRef<void(size_t, size_t)> text,
                              absl::FunctionRef<void(int32_t)> token) const {
  size_t text_begin = begin;
  size_t range = 0;
  for (size_t at = begin; at < end;) {
    if (!first_bytes_[static_cast<uint8_t>(whole[at])]) {
      ++at;
      continue;
    }
    while (range < control_ranges.size() && control_ranges[range].end <= at) ++range;
    const bool may_steer = range < control_ranges.size() && control_ranges[range].begin <= at;
    const int32_t index = LongestAt(whole.substr(at, end - at), may_steer ? control_ranges[range].end - at : 0);
    if (index == kNoToken) {
      ++at;
      continue;
    }
    const AddedToken& found = tokens_[index];
    const absl::string_view before = whole.substr(text_begin, at - text_begin);
    const size_t text_end = at - (found.lstrip ? TrailingSpaceBytes(before) : 0);
    if (text_end > text_begin) text(text_begin, text_end);
    token(found.id);
    at += found.content.size();
    if (found.rstrip) at += LeadingSpaceBytes(whole.substr(at, end - at));
    text_begin = at;
  }
  if (text_begin < end) text(text_begin, end);
}

}  // namespace conclave
