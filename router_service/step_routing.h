// Books which experts the rows of a step went to: in total, for each sequence, and for observers.
#ifndef CONCLAVE_ROUTER_SERVICE_STEP_ROUTING_H_
#define CONCLAVE_ROUTER_SERVICE_STEP_ROUTING_H_

#include <cstdint>
#include <mutex>
#include <vector>

#include "absl/types/span.h"
#include "moe/base/ids.h"
#include "moe/checkpoint/model_spec.h"
#include "moe/model/expert_pool.h"
#include "moe/model/transformer.h"
#include "router_service/engine.h"

namespace conclave {

// [layers][experts], zero; dense layers are empty.
template <typename Count>
std::vector<std::vector<Count>> ZeroExpertCounts(const ModelSpec& spec) {
  std::vector<std::vector<Count>> counts(spec.layers);
  for (int layer = 0; layer < spec.layers; ++layer) {
    if (spec.IsMoe(LayerId{layer})) counts[layer].assign(spec.gate.experts, 0);
  }
  return counts;
}

// Rows of one sequence in a step, in the order of the step's slices.
struct RoutedRows {
  int32_t first_position = 0;
  int32_t rows = 0;
  int32_t prompt_rows = 0;                                   // the first so many are prompt
  std::vector<std::vector<uint32_t>>* expert_use = nullptr;  // [layers][experts]; null: not asked for
  SequenceObserver* observer = nullptr;                      // null: none
  // [layers][top_k]: becomes the experts of the last row; null: not asked for, or that row gives no token.
  std::vector<std::vector<int32_t>>* token_experts = nullptr;
  // [layers]: rows below this position were booked for the sequence before, and run again after a preemption or an
  // abandoned step. Null where neither expert_use nor observer is there.
  std::vector<int32_t>* booked_until = nullptr;
};

// totals() is thread-safe; all else is the engine thread's.
class StepRouting final : public ForwardObserver {
 public:
  explicit StepRouting(const ModelSpec& spec) : totals_(ZeroExpertCounts<uint64_t>(spec)) {}

  // What the next Forward runs; must stay unchanged until it has returned.
  void BeginStep(absl::Span<const RoutedRows> rows) {
    step_ = rows;
    experts_read_ = 0;
    in_two_parts_ = false;
  }
  // Experts that got rows since BeginStep, over all layers: what the step had to read of their weights.
  int64_t experts_read() const { return experts_read_; }
  void OnRouting(LayerId layer, const Routing& routing) override;
  void OnTwoParts() override { in_two_parts_ = true; }
  // Of the Forward since BeginStep.
  bool in_two_parts() const { return in_two_parts_; }

  // Rows by [layer][expert] since start.
  std::vector<std::vector<uint64_t>> totals() const;

 private:
  absl::Span<const RoutedRows> step_;
  int64_t experts_read_ = 0;
  bool in_two_parts_ = false;
  std::vector<bool> read_;  // [experts] of the layer at hand
  mutable std::mutex mutex_;
  std::vector<std::vector<uint64_t>> totals_;  // guarded by mutex_
};

}  // namespace conclave

#endif  // CONCLAVE_ROUTER_SERVICE_STEP_ROUTING_H_
