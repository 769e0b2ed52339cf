// The tensors that a model of a given shape consists of, by their published names (those of DeepSeek-V3's and
// DeepSeek-V2's checkpoints on Hugging Face): one list for checking, counting and making checkpoints.
#ifndef CONCLAVE_MOE_CHECKPOINT_MODEL_TENSORS_H_
#define CONCLAVE_MOE_CHECKPOINT_MODEL_TENSORS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "moe/checkpoint/model_spec.h"

namespace conclave {

// What a tensor is for; it decides whether a checkpoint quantises it and how random weights are drawn.
enum class TensorRole {
  kEmbedding,      // [vocab, hidden]
  kHead,           // lm_head [vocab, hidden]
  kNorm,           // a vector of RMSNorm weights
  kBias,           // a vector added to a projection's output
  kProjection,     // a matrix of attention, a dense FFN or the shared expert; FP8 checkpoints quantise it
  kOutProjection,  // the same, where it writes to the residual stream (o_proj, down_proj)
  kExpert,         // gate_proj and up_proj of a routed expert; quantised
  kExpertOut,      // down_proj of a routed expert; quantised
  kGate,           // mlp.gate.weight [experts, hidden]
  kSelectionBias,  // mlp.gate.e_score_correction_bias [experts], stored in float32
  kMtpProjection,  // eh_proj [hidden, 2 * hidden] of an MTP layer
};

// One tensor of the published format.
struct TensorSpec {
  std::string name;
  std::vector<int64_t> shape;  // [out, in] for matrices, [size] for vectors
  TensorRole role = TensorRole::kProjection;
  int layer = -1;    // -1: outside the layers
  int expert = -1;   // routed experts only
  bool mtp = false;  // belongs to a multi-token-prediction layer, which stands behind the decoder's
  int64_t elements() const {
    int64_t count = 1;
    for (const int64_t size : shape) count *= size;
    return count;
  }
  // Whether an FP8 checkpoint stores it in e4m3 with a `<name>_scale_inv` beside it.
  bool quantised() const {
    return role == TensorRole::kProjection || role == TensorRole::kOutProjection || role == TensorRole::kExpert ||
           role == TensorRole::kExpertOut;
  }
};

// Calls `visit` for every tensor, in the order embedding, layers ascending (experts ascending within), final norm,
// head, then the MTP layers. Copies of embedding and head that some MTP layers carry are not listed.
void ForEachTensor(const ModelSpec& spec, absl::FunctionRef<void(const TensorSpec&)> visit);

}  // namespace conclave

#endif  // CONCLAVE_MOE_CHECKPOINT_MODEL_TENSORS_H_
