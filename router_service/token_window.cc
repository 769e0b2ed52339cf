#include "router_service/token_window.h"

#include <utility>

namespace conclave {

std::vector<std::vector<uint64_t>> TokenWindow::Update(const std::vector<std::vector<uint64_t>>& totals) {
  const absl::Time now = clock_->Now();
  if (next_at_ == absl::InfinitePast()) {
    next_at_ = now;
    for (const auto& row : totals) base_.emplace_back(row.size(), 0);  // all that came before the first look
    next_ = totals;
  } else if (now - next_at_ >= kHalf) {
    next_at_ = now;
    base_ = std::exchange(next_, totals);
  }
  std::vector<std::vector<uint64_t>> recent = totals;
  for (size_t row = 0; row < recent.size(); ++row) {
    for (size_t i = 0; i < recent[row].size(); ++i) recent[row][i] -= base_[row][i];
  }
  return recent;
}

}  // namespace conclave
