#include "moe/tokenizer/jinja/strings.h"

#include <string.h>

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "moe/tokenizer/utf8.h"

namespace conclave::jinja {
namespace {

// Searching from the right is not linear, so that what is searched for must be short.
constexpr size_t kRightSeparatorBytesMax = 64;

// A piece of a split: bytes [begin, end) of the text.
using Pieces = std::vector<ByteRange>;

Pieces SplitAt(absl::string_view text, absl::string_view separator, int64_t limit, const Arena& arena) {
  Pieces pieces;
  size_t begin = 0;
  // Each piece will cost an object, so that there is no use in finding more of them than the arena can hold.
  const int64_t most = arena.bytes_left() / 16;
  while (limit < 0 || static_cast<int64_t>(pieces.size()) < limit) {
    const size_t found = FindText(text, separator, begin);
    if (found == absl::string_view::npos || static_cast<int64_t>(pieces.size()) > most) break;
    pieces.push_back({begin, found});
    begin = found + separator.size();
  }
  pieces.push_back({begin, text.size()});
  return pieces;
}

Pieces SplitAtFromRight(absl::string_view text, absl::string_view separator, int64_t limit, const Arena& arena) {
  if (limit < 0) return SplitAt(text, separator, limit, arena);
  Pieces pieces;
  size_t end = text.size();
  while (static_cast<int64_t>(pieces.size()) < limit && end >= separator.size()) {
    const size_t found = text.substr(0, end).rfind(separator);
    if (found == absl::string_view::npos) break;
    pieces.push_back({found + separator.size(), end});
    end = found;
  }
  pieces.push_back({0, end});
  std::reverse(pieces.begin(), pieces.end());
  return pieces;
}

// The white space at the start of `text`, in bytes.
size_t SpaceBytes(absl::string_view text) { return StripSpace(text, /*left=*/true, /*right=*/false).begin; }

Pieces SplitAtSpace(absl::string_view text, int64_t limit) {
  Pieces pieces;
  size_t at = SpaceBytes(text);
  while (at < text.size()) {
    if (limit >= 0 && static_cast<int64_t>(pieces.size()) == limit) {
      pieces.push_back({at, StripSpace(text, /*left=*/false, /*right=*/true).end});
      break;
    }
    size_t end = at;
    while (end < text.size() && SpaceBytes(text.substr(end, 4)) == 0) end += NextUtf8(text.substr(end)).bytes;
    pieces.push_back({at, end});
    at = end + SpaceBytes(text.substr(end));
  }
  return pieces;
}

absl::Status CheckAscii(const Text& text) {
  for (char c : text.bytes()) {
    if (static_cast<uint8_t>(c) >= 0x80) {
      return absl::InvalidArgumentError("changing the case of text outside ASCII is not supported");
    }
  }
  return absl::OkStatus();
}

}  // namespace

size_t FindText(absl::string_view text, absl::string_view part, size_t from) {
  if (from > text.size()) return absl::string_view::npos;
  const void* found = memmem(text.data() + from, text.size() - from, part.data(), part.size());
  return found == nullptr ? absl::string_view::npos : static_cast<const char*>(found) - text.data();
}

absl::StatusOr<List> Split(const Text& text, const Text* separator, int64_t limit, bool from_right, Arena* arena) {
  Pieces pieces;
  if (separator == nullptr) {
    if (from_right && limit >= 0) {
      return absl::InvalidArgumentError("rsplit at white space with a limit is not supported");
    }
    pieces = SplitAtSpace(text.bytes(), limit);
  } else if (from_right && separator->size() > kRightSeparatorBytesMax) {
    return absl::InvalidArgumentError("rsplit with a long separator is not supported");
  } else if (separator->size() == 0) {
    return absl::InvalidArgumentError("split with an empty separator");
  } else {
    pieces = from_right ? SplitAtFromRight(text.bytes(), separator->bytes(), limit, *arena)
                        : SplitAt(text.bytes(), separator->bytes(), limit, *arena);
  }
  List items;
  for (const ByteRange& piece : pieces) {
    if (arena->over_limit()) break;  // the interpreter stops at its next step
    items.push_back(arena->NewText(text.Sub(piece.begin, piece.end)));
  }
  return items;
}

Text Strip(const Text& text, const Text* characters, bool left, bool right) {
  if (characters == nullptr) {
    const ByteRange kept = StripSpace(text.bytes(), left, right);
    return text.Sub(kept.begin, kept.end);
  }
  // In UTF-8 a character is found only where it stands, never across two others.
  const absl::string_view set = characters->bytes();
  absl::string_view kept = text.bytes();
  while (left && !kept.empty()) {
    const size_t size = NextUtf8(kept).bytes;
    if (FindText(set, kept.substr(0, size), 0) == absl::string_view::npos) break;
    kept.remove_prefix(size);
  }
  while (right && !kept.empty()) {
    size_t start = kept.size() - 1;
    while (start > 0 && (static_cast<uint8_t>(kept[start]) & 0xC0) == 0x80) --start;
    if (FindText(set, kept.substr(start), 0) == absl::string_view::npos) break;
    kept = kept.substr(0, start);
  }
  const size_t begin = kept.data() - text.bytes().data();
  return text.Sub(begin, begin + kept.size());
}

Text Replace(const Text& text, const Text& from, const Text& to, int64_t limit, Arena* arena) {
  const std::vector<size_t> offsets = from.size() == 0 ? CharacterOffsets(text) : std::vector<size_t>();
  Text result;
  size_t at = 0;
  for (int64_t count = 0; limit < 0 || count < limit; ++count) {
    // An empty string stands before every character and at the end.
    if (from.size() == 0 && count >= static_cast<int64_t>(offsets.size())) break;
    const size_t found = from.size() == 0 ? offsets[count] : FindText(text.bytes(), from.bytes(), at);
    if (found == absl::string_view::npos) break;
    result.Append(text, at, found);
    result.Append(to);
    at = found + from.size();
    arena->Charge(static_cast<int64_t>(to.size()));
    if (arena->over_limit()) break;
  }
  result.Append(text, at, text.size());
  return result;
}

absl::StatusOr<Text> Upper(const Text& text) {
  const absl::Status ascii = CheckAscii(text);
  if (!ascii.ok()) return ascii;
  Text result = text;
  result.Transform([](char c) { return absl::ascii_toupper(c); });
  return result;
}

absl::StatusOr<Text> Lower(const Text& text) {
  const absl::Status ascii = CheckAscii(text);
  if (!ascii.ok()) return ascii;
  Text result = text;
  result.Transform([](char c) { return absl::ascii_tolower(c); });
  return result;
}

absl::StatusOr<Text> Capitalize(const Text& text) {
  absl::StatusOr<Text> result = Lower(text);
  bool first = true;
  if (result.ok()) {
    result->Transform([&first](char c) { return std::exchange(first, false) ? absl::ascii_toupper(c) : c; });
  }
  return result;
}

size_t CharacterOffset(const Text& text, int64_t index) {
  const std::string& bytes = text.bytes();
  for (size_t i = 0; i < bytes.size(); ++i) {
    if ((static_cast<uint8_t>(bytes[i]) & 0xC0) != 0x80 && index-- == 0) return i;
  }
  return bytes.size();
}

std::vector<size_t> CharacterOffsets(const Text& text) {
  std::vector<size_t> offsets;
  const std::string& bytes = text.bytes();
  for (size_t i = 0; i < bytes.size(); ++i) {
    if ((static_cast<uint8_t>(bytes[i]) & 0xC0) != 0x80) offsets.push_back(i);
  }
  offsets.push_back(bytes.size());
  return offsets;
}

}  // namespace conclave::jinja
