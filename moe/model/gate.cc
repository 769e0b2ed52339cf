#include "moe/model/gate.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "absl/strings/str_cat.h"
#include "moe/base/check.h"
#include "moe/base/limits.h"
#include "moe/base/status_macros.h"

namespace conclave {
namespace {

void Softmax(absl::Span<float> values) {
  const float largest = *std::max_element(values.begin(), values.end());
  float sum = 0;
  for (float& value : values) sum += (value = std::exp(value - largest));
  for (float& value : values) value /= sum;
}

void Sigmoid(absl::Span<float> values) {
  for (float& value : values) value = 1.0f / (1.0f + std::exp(-value));
}

// The indices of the best.size() largest values, best first; of equal values the lower index wins. Values that are
// not numbers lose to none and beat none, so that the answer is always best.size() different indices.
void TopK(absl::Span<const float> values, absl::Span<int32_t> best) {
  size_t found = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    if (found == best.size() && !(values[i] > values[best[found - 1]])) continue;
    size_t place = found < best.size() ? found++ : found - 1;
    while (place > 0 && values[i] > values[best[place - 1]]) {
      best[place] = best[place - 1];
      --place;
    }
    best[place] = static_cast<int32_t>(i);
  }
}

// A group's score: its largest value, or the sum of its two largest.
float GroupScore(TopKMethod method, absl::Span<const float> values) {
  if (method == TopKMethod::kGroupLimitedGreedy) return *std::max_element(values.begin(), values.end());
  int32_t best[2] = {0, 0};
  const size_t count = std::min<size_t>(2, values.size());
  TopK(values, absl::MakeSpan(best, count));
  return count == 2 ? values[best[0]] + values[best[1]] : values[best[0]];
}

// Sets the values of all but the best spec.groups_kept groups to -inf.
void MaskGroups(const GateSpec& spec, absl::Span<float> choice) {
  const int group_size = spec.experts / spec.groups;
  float scores[limits::kExpertsPerLayerMax];
  int32_t kept[limits::kExpertsPerLayerMax];
  for (int group = 0; group < spec.groups; ++group) {
    scores[group] = GroupScore(spec.method, choice.subspan(group * group_size, group_size));
  }
  TopK(absl::MakeConstSpan(scores, spec.groups), absl::MakeSpan(kept, spec.groups_kept));
  std::sort(kept, kept + spec.groups_kept);
  for (int group = 0; group < spec.groups; ++group) {
    if (std::binary_search(kept, kept + spec.groups_kept, group)) continue;
    absl::Span<float> values = choice.subspan(group * group_size, group_size);
    std::fill(values.begin(), values.end(), -std::numeric_limits<float>::infinity());
  }
}

}  // namespace

void SelectExperts(const GateSpec& spec, absl::Span<const float> bias, absl::Span<float> logits,
                   absl::Span<float> choice, absl::Span<int32_t> experts, absl::Span<float> weights) {
  absl::Span<float> scores = logits;
  spec.score_function == ScoreFunction::kSoftmax ? Softmax(scores) : Sigmoid(scores);
  for (int i = 0; i < spec.experts; ++i) choice[i] = bias.empty() ? scores[i] : scores[i] + bias[i];
  if (spec.method != TopKMethod::kGreedy && spec.groups > spec.groups_kept) MaskGroups(spec, choice);
  TopK(choice, experts);
  std::sort(experts.begin(), experts.end());
  float sum = 0;
  for (int k = 0; k < spec.top_k; ++k) sum += (weights[k] = scores[experts[k]]);
  for (float& weight : weights) {
    if (spec.normalise_top_k) weight /= sum + 1e-20f;
    weight *= spec.routed_scaling_factor;
  }
}

absl::StatusOr<GateWeights> LoadGate(const Checkpoint& checkpoint, LayerId layer) {
  const ModelSpec& spec = checkpoint.spec();
  const std::string prefix = absl::StrCat("model.layers.", Value(layer), ".mlp.gate.");
  GateWeights weights;
  ASSIGN_OR_RETURN(weights.matrix, checkpoint.Weight(prefix + "weight", spec.gate.experts, spec.hidden));
  if (spec.gate.has_selection_bias) {
    ASSIGN_OR_RETURN(weights.bias, checkpoint.Vector(prefix + "e_score_correction_bias", spec.gate.experts));
  }
  return weights;
}

Gate::Gate(const GateSpec& spec, const Kernels& kernels, ThreadPool& threads, int hidden, int rows_max)
    : spec_(spec),
      kernels_(kernels),
      threads_(threads),
      packer_(kernels, threads, rows_max, hidden),
      logits_(DType::kF32, rows_max, spec.experts),
      choice_(DType::kF32, rows_max, spec.experts),
      experts_(int64_t{rows_max} * spec.top_k),
      weights_(int64_t{rows_max} * spec.top_k) {
  CONCLAVE_CHECK(kernels.compute == Compute::kF32) << "gates compute in float32";
}

void Gate::Route(const GateWeights& weights, ConstMatView x) {
  rows_ = x.rows;
  RunLinears(kernels_, threads_, packer_.Pack(x, {&weights.matrix}), {{&weights.matrix, logits_.first(rows_)}});
  const int64_t grain = TaskGrain(rows_, int64_t{8} * spec_.experts, threads_.threads());
  threads_.ParallelFor(rows_, grain, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      SelectExperts(spec_, weights.bias, absl::MakeSpan(logits_.view().Row<float>(row), spec_.experts),
                    absl::MakeSpan(choice_.view().Row<float>(row), spec_.experts),
                    absl::MakeSpan(experts_).subspan(row * spec_.top_k, spec_.top_k),
                    absl::MakeSpan(weights_).subspan(row * spec_.top_k, spec_.top_k));
    }
  });
}

}  // namespace conclave
