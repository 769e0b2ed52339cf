// The router of one MoE layer: which experts a row goes to, and with what weight (DeepSeek-V2, section 2.1.2;
// DeepSeek-V3, sections 2.1.2 and 2.1.3). The bias selects, the unbiased scores weigh; experts of dropped groups
// score -inf; ties go to the lower id.
#ifndef CONCLAVE_MOE_MODEL_GATE_H_
#define CONCLAVE_MOE_MODEL_GATE_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "moe/base/ids.h"
#include "moe/base/thread_pool.h"
#include "moe/checkpoint/checkpoint.h"
#include "moe/checkpoint/model_spec.h"
#include "moe/kernels/kernels.h"
#include "moe/model/linears.h"
#include "moe/tensor/buffer.h"
#include "moe/tensor/weight_view.h"

namespace conclave {

// Chooses spec.top_k experts for one row. `logits` [experts] becomes the scores; `choice` [experts] is scratch;
// `bias` [experts] or empty. Fills experts [top_k], ascending, and weights [top_k], the scaling factor in them.
void SelectExperts(const GateSpec& spec, absl::Span<const float> bias, absl::Span<float> logits,
                   absl::Span<float> choice, absl::Span<int32_t> experts, absl::Span<float> weights);

// The gate's tensors of one layer; views into a checkpoint.
struct GateWeights {
  WeightView matrix;        // [experts, hidden]
  std::vector<float> bias;  // [experts]: e_score_correction_bias; empty where the model has none
};
// model.layers.<layer>.mlp.gate.*. Errors as Checkpoint::Weight.
absl::StatusOr<GateWeights> LoadGate(const Checkpoint& checkpoint, LayerId layer);

// Owns the scratch and results of one step's routing; used by one thread, which may fan out over `threads`.
class Gate {
 public:
  // `kernels` are GateKernels(...): logits are never rounded to bfloat16.
  Gate(const GateSpec& spec, const Kernels& kernels, ThreadPool& threads, int hidden, int rows_max);

  // Routes x [rows, hidden] F32, the unrounded output of the norm.
  void Route(const GateWeights& weights, ConstMatView x);
  // Of the last Route: [rows * top_k] each.
  absl::Span<const int32_t> experts() const { return absl::MakeConstSpan(experts_).first(rows_ * spec_.top_k); }
  absl::Span<const float> weights() const { return absl::MakeConstSpan(weights_).first(rows_ * spec_.top_k); }

 private:
  GateSpec spec_;
  const Kernels& kernels_;
  ThreadPool& threads_;
  int64_t rows_ = 0;
  RowPacker packer_;
  MatBuffer logits_, choice_;     // [rows_max, experts] F32
  std::vector<int32_t> experts_;  // [rows_max * top_k]
  std::vector<float> weights_;    // [rows_max * top_k]
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_MODEL_GATE_H_
