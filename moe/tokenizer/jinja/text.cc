#include "moe/tokenizer/jinja/text.h"

#include <algorithm>

#include "moe/tokenizer/utf8.h"

namespace conclave::jinja {
namespace {

// The first run that ends after byte `at`.
std::vector<Text::Run>::const_iterator RunAt(const std::vector<Text::Run>& runs, size_t at) {
  return std::upper_bound(runs.begin(), runs.end(), at,
                          [](size_t value, const Text::Run& run) { return value < run.end; });
}

}  // namespace

void Text::Append(absl::string_view bytes, bool from_template) {
  if (bytes.empty()) return;
  bytes_.append(bytes.data(), bytes.size());
  if (runs_.empty() || runs_.back().from_template != from_template) runs_.push_back({0, from_template});
  runs_.back().end = bytes_.size();
}

void Text::Append(const Text& other, size_t begin, size_t end) {
  for (auto run = RunAt(other.runs_, begin); begin < end; ++run) {
    const size_t stop = std::min(end, run->end);
    Append(absl::string_view(other.bytes_).substr(begin, stop - begin), run->from_template);
    begin = stop;
  }
}

Text Text::Sub(size_t begin, size_t end) const {
  Text result;
  result.Append(*this, begin, end);
  return result;
}

bool Text::FromTemplate(size_t at) const { return RunAt(runs_, at)->from_template; }

ByteRange StripSpace(absl::string_view text, bool left, bool right) {
  size_t begin = 0, end = text.size();
  while (left && begin < end) {
    const Utf8Step step = NextUtf8(text.substr(begin));
    if (step.form != Utf8Form::kCharacter || !IsPythonSpace(step.code_point)) break;
    begin += step.bytes;
  }
  while (right && end > begin) {
    size_t start = end - 1;
    while (start > begin && (static_cast<uint8_t>(text[start]) & 0xC0) == 0x80) --start;
    const Utf8Step step = NextUtf8(text.substr(start, end - start));
    if (step.form != Utf8Form::kCharacter || !IsPythonSpace(step.code_point)) break;
    end = start;
  }
  return {begin, end};
}

}  // namespace conclave::jinja
