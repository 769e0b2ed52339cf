#include "gateway/stop_matcher.h"

#include <algorithm>
#include <utility>

#include "moe/base/check.h"

namespace conclave {
namespace {

std::vector<size_t> Borders(const std::string& text) {
  std::vector<size_t> border(text.size(), 0);
  for (size_t i = 1; i < text.size(); ++i) {
    size_t length = border[i - 1];
    while (length > 0 && text[i] != text[length]) length = border[length - 1];
    border[i] = text[i] == text[length] ? length + 1 : 0;
  }
  return border;
}

}  // namespace

StopMatcher::StopMatcher(const std::vector<std::string>& stops) {
  for (const std::string& text : stops) {
    CONCLAVE_CHECK(!text.empty()) << "an empty stop text stops everything";
    stops_.push_back({text, Borders(text)});
  }
}

bool StopMatcher::Append(absl::string_view text, std::string* out) {
  for (const char c : text) {
    held_.push_back(c);
    size_t complete = 0;
    for (size_t i = 0; i < stops_.size(); ++i) {
      Stop& stop = stops_[i];
      while (stop.matched > 0 && stop.text[stop.matched] != c) stop.matched = stop.border[stop.matched - 1];
      if (stop.text[stop.matched] == c) ++stop.matched;
      if (stop.matched < stop.text.size() || stop.matched <= complete) continue;
      complete = stop.matched;
      found_ = static_cast<int>(i);
    }
    if (complete == 0) continue;
    out->append(held_, 0, held_.size() - complete);
    held_.clear();
    return true;
  }
  size_t maybe = 0;
  for (const Stop& stop : stops_) maybe = std::max(maybe, stop.matched);
  out->append(held_, 0, held_.size() - maybe);
  held_.erase(0, held_.size() - maybe);
  return false;
}

std::string StopMatcher::Flush() { return std::exchange(held_, {}); }

}  // namespace conclave
