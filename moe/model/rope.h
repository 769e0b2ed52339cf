// Rotary position embedding (Su et al. 2021) with YaRN's change of frequencies (Peng et al. 2023, section 3.2) the way
// DeepSeek's models use it: over the last qk_rope_head_dim values of each query head and over one shared key.
#ifndef CONCLAVE_MOE_MODEL_ROPE_H_
#define CONCLAVE_MOE_MODEL_ROPE_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "moe/checkpoint/model_spec.h"
#include "moe/tensor/buffer.h"

namespace conclave {

// Radians per position of each rotated pair: [qk_rope_head_dim / 2]. Computed in float32, as the models' published
// code does: at position 100,000 the rounding of a frequency is visible in the angle, so it is part of the model.
std::vector<float> RopeFrequencies(const AttentionSpec& spec);
// What cosines and sines are multiplied by: 1 without YaRN; with it mscale(factor, mscale) / mscale(factor,
// mscale_all_dim) where both are set, else mscale(factor, 1), with mscale(s, m) = 0.1 m ln s + 1.
float RopeAttentionFactor(const AttentionSpec& spec);
// qk_head_dim^-0.5, times mscale(factor, mscale_all_dim)² with YaRN.
float SoftmaxScale(const AttentionSpec& spec);

// The angles of the rows of one step, computed once and used by every layer. Rotate may be called by many threads.
class Rope {
 public:
  Rope(const AttentionSpec& spec, int rows_max);

  // Row i of the step stands at positions[i]. REQUIRES: positions.size() <= rows_max
  void SetPositions(absl::Span<const int32_t> positions);
  // out[0, dim) = x[0, dim) rotated to the position of row `row`; dim is qk_rope_head_dim. `out` may be `x`.
  // Pairs are (2i, 2i + 1) where the spec says interleaved, else (i, i + dim / 2).
  void Rotate(int64_t row, const float* x, float* out) const;
  // Of all rows, the attention factor in them: [rows_max, qk_rope_head_dim / 2].
  ConstMatView cosines() const { return cosines_.view(); }
  ConstMatView sines() const { return sines_.view(); }

 private:
  bool interleaved_;
  int pairs_;
  float factor_;
  std::vector<float> frequencies_;  // [pairs]
  MatBuffer cosines_, sines_;       // [rows_max, pairs] F32
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_MODEL_ROPE_H_
