#include "moe/grammar/char_set.h"

#include <algorithm>

namespace conclave {
namespace {

constexpr uint32_t kPointMax = 0x10ffff, kSurrogateLow = 0xd800, kSurrogateHigh = 0xdfff;

// Lead byte, and bits of the continuation bytes behind it.
struct Form {
  uint32_t low, high;
  uint8_t lead;
  int continuations;
};
constexpr Form kForms[] = {
    {0, 0x7f, 0, 0}, {0x80, 0x7ff, 0xc0, 1}, {0x800, 0xffff, 0xe0, 2}, {0x10000, kPointMax, 0xf0, 3}};

// Numbers [low, high] of `digits` continuation bytes behind a byte with `lead` in front of what is left: ranges of
// bytes whose first is free where the rest is whole.
int32_t AppendRange(GrammarBuilder& builder, uint32_t low, uint32_t high, uint8_t lead, int digits, int32_t next) {
  const uint32_t whole = (uint32_t{1} << (6 * digits)) - 1;
  if (digits == 0) {
    return builder.Bytes(static_cast<uint8_t>(lead | low), static_cast<uint8_t>(lead | high), next);
  }
  const uint32_t first = low >> (6 * digits), last = high >> (6 * digits);
  const auto rest = [&](uint32_t from, uint32_t to) { return AppendRange(builder, from, to, 0x80, digits - 1, next); };
  if (first == last) {
    return builder.Bytes(static_cast<uint8_t>(lead | first), static_cast<uint8_t>(lead | first),
                         rest(low & whole, high & whole));
  }
  int32_t begin = builder.Fail();
  const auto add = [&](uint32_t from, uint32_t to, int32_t then) {
    begin =
        builder.Split(builder.Bytes(static_cast<uint8_t>(lead | from), static_cast<uint8_t>(lead | to), then), begin);
  };
  const bool cut_low = (low & whole) != 0, cut_high = (high & whole) != whole;
  if (cut_high) add(last, last, rest(0, high & whole));
  const uint32_t middle_first = first + (cut_low ? 1 : 0), middle_end = last + (cut_high ? 0 : 1);
  if (middle_first < middle_end) add(middle_first, middle_end - 1, rest(0, whole));
  if (cut_low) add(first, first, rest(low & whole, whole));
  return begin;
}

}  // namespace

CharSet CharSet::All() {
  CharSet set;
  set.Add(0, kPointMax);
  return set;
}

void CharSet::Add(uint32_t low, uint32_t high) { ranges_.emplace_back(low, std::min(high, kPointMax)); }

void CharSet::Add(const CharSet& other) { ranges_.insert(ranges_.end(), other.ranges_.begin(), other.ranges_.end()); }

std::vector<std::pair<uint32_t, uint32_t>> CharSet::Ranges() const {
  std::vector<std::pair<uint32_t, uint32_t>> split;
  for (const auto& [low, high] : ranges_) {
    if (low < kSurrogateLow) split.emplace_back(low, std::min(high, kSurrogateLow - 1));
    if (high > kSurrogateHigh) split.emplace_back(std::max(low, kSurrogateHigh + 1), high);
  }
  std::sort(split.begin(), split.end());
  std::vector<std::pair<uint32_t, uint32_t>> ranges;
  for (const auto& [low, high] : split) {
    if (!ranges.empty() && low <= ranges.back().second + 1) {
      ranges.back().second = std::max(ranges.back().second, high);
    } else {
      ranges.emplace_back(low, high);
    }
  }
  return ranges;
}

CharSet CharSet::Complement() const {
  CharSet set;
  uint32_t from = 0;
  for (const auto& [low, high] : Ranges()) {
    if (low > from) set.Add(from, low - 1);
    from = high + 1;
  }
  if (from <= kPointMax) set.Add(from, kPointMax);
  return set;
}

int32_t AppendChar(GrammarBuilder& builder, const CharSet& set, int32_t next) {
  int32_t begin = builder.Fail();
  for (const auto& [low, high] : set.Ranges()) {
    for (const Form& form : kForms) {
      const uint32_t from = std::max(low, form.low), to = std::min(high, form.high);
      if (from > to) continue;
      begin = builder.Split(AppendRange(builder, from, to, form.lead, form.continuations, next), begin);
    }
  }
  return begin;
}

}  // namespace conclave
