#include "gateway/http/reasoning.h"

#include <algorithm>
#include <cstddef>
#include <utility>

#include "absl/strings/match.h"

namespace conclave {
namespace {

constexpr absl::string_view kOpen = "<think>", kClose = "</think>";
constexpr absl::string_view kSpace = " \t\r\n";

// How many bytes at the end of `text` may be the beginning of `tag`.
size_t PartialTagBytes(absl::string_view text, absl::string_view tag) {
  for (size_t bytes = std::min(text.size(), tag.size() - 1); bytes > 0; --bytes) {
    if (absl::EndsWith(text, tag.substr(0, bytes))) return bytes;
  }
  return 0;
}

}  // namespace

ReasoningPiece ReasoningSplitter::Add(absl::string_view text) {
  held_.append(text.data(), text.size());
  ReasoningPiece piece;
  if (state_ == State::kStart) {
    // An answer that thinks begins with the tag; space before it is not part of anything.
    const size_t begin = std::min(held_.find_first_not_of("\r\n \t"), held_.size());
    const absl::string_view rest = absl::string_view(held_).substr(begin);
    if (rest.size() < kOpen.size() && absl::StartsWith(kOpen, rest)) return piece;
    state_ = absl::StartsWith(rest, kOpen) ? State::kInside : State::kContent;
    if (state_ == State::kInside) held_.erase(0, begin + kOpen.size());
  }
  if (state_ == State::kInside) {
    if (!reasoning_begun_) {
      held_.erase(0, std::min(held_.find_first_not_of(kSpace.data()), held_.size()));
      reasoning_begun_ = !held_.empty();
    }
    const size_t close = held_.find(kClose.data());
    if (close == std::string::npos) {
      const size_t certain = held_.size() - PartialTagBytes(held_, kClose);
      piece.reasoning = held_.substr(0, certain);
      held_.erase(0, certain);
      return piece;
    }
    piece.reasoning = held_.substr(0, close);
    held_.erase(0, close + kClose.size());
    state_ = State::kAfter;
  }
  if (state_ == State::kAfter) {
    // The empty lines between thoughts and answer belong to neither.
    held_.erase(0, std::min(held_.find_first_not_of(kSpace.data()), held_.size()));
    if (held_.empty()) return piece;
    state_ = State::kContent;
  }
  piece.content = std::exchange(held_, "");
  return piece;
}

ReasoningPiece ReasoningSplitter::Flush() {
  ReasoningPiece piece;
  (state_ == State::kInside ? piece.reasoning : piece.content) = std::exchange(held_, "");
  return piece;
}

}  // namespace conclave
