#include "moe/daemon/nearest_name.h"

#include <algorithm>
#include <cstddef>

#include "absl/strings/str_cat.h"

namespace conclave {
namespace {

constexpr size_t kNameLettersMax = 100;

}  // namespace

int EditDistance(absl::string_view a, absl::string_view b) {
  // Three rows of the usual table: two back (for swaps), the last one, and the current one.
  std::vector<int> before(b.size() + 1), last(b.size() + 1), row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = static_cast<int>(j);
  for (size_t i = 1; i <= a.size(); ++i) {
    before.swap(last);
    last.swap(row);
    row[0] = static_cast<int>(i);
    for (size_t j = 1; j <= b.size(); ++j) {
      row[j] = std::min({last[j] + 1, row[j - 1] + 1, last[j - 1] + (a[i - 1] != b[j - 1])});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) row[j] = std::min(row[j], before[j - 2] + 1);
    }
  }
  return row[b.size()];
}

std::string NearestName(absl::string_view name, const std::vector<std::string>& known) {
  std::string nearest;
  if (name.size() > kNameLettersMax) return nearest;
  int distance_max = std::max<int>(1, static_cast<int>(name.size()) / 3);
  for (const std::string& candidate : known) {
    if (candidate.size() > kNameLettersMax) continue;
    const int distance = EditDistance(name, candidate);
    if (distance > distance_max) continue;
    nearest = candidate;
    distance_max = distance - 1;
  }
  return nearest;
}

std::string DidYouMean(absl::string_view name, const std::vector<std::string>& known, absl::string_view prefix) {
  const std::string nearest = NearestName(name, known);
  return nearest.empty() ? "" : absl::StrCat("; did you mean ", prefix, nearest, "?");
}

}  // namespace conclave
