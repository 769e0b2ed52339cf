#include "cli/bars.h"

#include <algorithm>

namespace conclave {
namespace {

constexpr const char* kBars[] = {"·", "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};

}  // namespace

const char* Bar(uint64_t value, uint64_t largest) {
  if (value == 0 || largest == 0) return kBars[0];
  return kBars[(value * 8 + largest - 1) / largest];
}

std::vector<uint64_t> SumNeighbours(const std::vector<uint64_t>& values, int64_t count) {
  const int64_t size = static_cast<int64_t>(values.size());
  if (size <= count) return values;
  std::vector<uint64_t> sums(static_cast<size_t>(count), 0);
  for (int64_t i = 0; i < size; ++i) sums[static_cast<size_t>(i * count / size)] += values[static_cast<size_t>(i)];
  return sums;
}

std::string Bars(const std::vector<uint64_t>& values) {
  const uint64_t largest = values.empty() ? 0 : *std::max_element(values.begin(), values.end());
  std::string text;
  for (const uint64_t value : values) text += Bar(value, largest);
  return text;
}

}  // namespace conclave
