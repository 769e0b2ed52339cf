#include "router_service/step_routing.h"

#include <algorithm>

#include "moe/base/check.h"

namespace conclave {

void StepRouting::OnRouting(LayerId layer, const Routing& routing) {
  const size_t top_k = routing.top_k;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    std::vector<uint64_t>& counts = totals_[Value(layer)];
    read_.assign(counts.size(), false);
    for (int32_t expert : routing.experts) {
      ++counts[expert];
      experts_read_ += !read_[expert];
      read_[expert] = true;
    }
  }
  size_t row = 0;
  for (const RoutedRows& rows : step_) {
    const auto experts_of = [&](size_t first, size_t count) {
      return routing.experts.subspan((row + first) * top_k, count * top_k);
    };
    int32_t booked = 0;  // of the rows
    if (rows.booked_until != nullptr) {
      int32_t& until = (*rows.booked_until)[Value(layer)];
      booked = std::clamp(until - rows.first_position, 0, rows.rows);
      until = std::max(until, rows.first_position + rows.rows);
    }
    const size_t fresh = booked;
    if (rows.expert_use != nullptr) {
      std::vector<uint32_t>& counts = (*rows.expert_use)[Value(layer)];
      for (int32_t expert : experts_of(fresh, rows.rows - fresh)) ++counts[expert];
    }
    if (rows.observer != nullptr && rows.prompt_rows > booked) {
      const size_t count = rows.prompt_rows - fresh;
      rows.observer->OnPromptRouting(
          layer, rows.first_position + booked,
          {routing.top_k, experts_of(fresh, count), routing.weights.subspan((row + fresh) * top_k, count * top_k)});
    }
    if (rows.token_experts != nullptr) {
      const auto last = experts_of(static_cast<size_t>(rows.rows) - 1, 1);
      (*rows.token_experts)[Value(layer)].assign(last.begin(), last.end());
    }
    row += rows.rows;
  }
  CONCLAVE_CHECK(routing.experts.size() == row * top_k) << routing.experts.size() << " for " << row << " rows";
}

std::vector<std::vector<uint64_t>> StepRouting::totals() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return totals_;
}

}  // namespace conclave
