#include <numeric>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "moe/base/check.h"
#include "moe/base/status_macros.h"
#include "moe/model/mla_attention.h"

namespace conclave {
namespace {

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

// The same matrix with scale blocks of `block_rows` rows, a divisor of the stored ones; `scales` owns the copies.
WeightView WithFinerScaleRows(const WeightView& weight, int32_t block_rows, MatBuffer& scales) {
  scales = MatBuffer(DType::kF32, CeilDiv(weight.rows(), block_rows), weight.scales.cols);
  for (int64_t row = 0; row < scales.view().rows; ++row) {
    const void* stored = weight.scales.RowBytes(row * block_rows / weight.block_rows);
    for (int64_t col = 0; col < weight.scales.cols; ++col) {
      scales.view().Row<float>(row)[col] = LoadAsFloat(stored, weight.scales.dtype, col);
    }
  }
  WeightView finer = weight;
  finer.scales = scales.view();
  finer.block_rows = block_rows;
  return finer;
}

// Rows [begin, begin + count) as a matrix of their own.
// REQUIRES: begin is the start of a scale block, or all the rows lie in one.
WeightView WeightRows(const WeightView& weight, int64_t begin, int64_t count) {
  WeightView rows = weight;
  rows.matrix = weight.matrix.Rows(begin, count);
  if (weight.has_scales()) {
    const int64_t first = begin / weight.block_rows;
    rows.scales = weight.scales.Rows(first, CeilDiv(begin + count, weight.block_rows) - first);
    CONCLAVE_CHECK(begin % weight.block_rows == 0 || rows.scales.rows == 1) << "row " << begin << " inside a block";
  }
  return rows;
}

// Cuts kv_b_proj [heads * (nope + v), kv_lora_rank] into each head's W_UK and W_UV. A quantised one whose heads do not
// end where scale blocks end gets its scales repeated at a finer grain, which changes no value.
void SplitHeads(const AttentionSpec& spec, WeightView kv_b, MlaWeights& weights) {
  const int64_t head_rows = spec.qk_nope_head_dim + spec.v_head_dim;
  if (kv_b.has_scales() && (spec.qk_nope_head_dim % kv_b.block_rows != 0 || head_rows % kv_b.block_rows != 0)) {
    const int32_t grain = std::gcd(std::gcd(spec.qk_nope_head_dim, spec.v_head_dim), kv_b.block_rows);
    kv_b = WithFinerScaleRows(kv_b, grain, weights.kv_b_scales);
  }
  for (int64_t head = 0; head < spec.heads; ++head) {
    weights.key_up.push_back(WeightRows(kv_b, head * head_rows, spec.qk_nope_head_dim));
    weights.value_up.push_back(WeightRows(kv_b, head * head_rows + spec.qk_nope_head_dim, spec.v_head_dim));
  }
}

}  // namespace

absl::StatusOr<MlaWeights> LoadMla(const Checkpoint& checkpoint, LayerId layer) {
  const ModelSpec& spec = checkpoint.spec();
  const AttentionSpec& mla = spec.attention;
  const std::string prefix = absl::StrCat("model.layers.", Value(layer), ".self_attn.");
  const int64_t query_width = int64_t{mla.heads} * mla.qk_head_dim();
  const int64_t value_width = int64_t{mla.heads} * mla.v_head_dim;
  MlaWeights weights;
  if (mla.q_lora_rank > 0) {
    ASSIGN_OR_RETURN(weights.q_a, checkpoint.Weight(prefix + "q_a_proj.weight", mla.q_lora_rank, spec.hidden));
    ASSIGN_OR_RETURN(weights.q_a_norm, checkpoint.Vector(prefix + "q_a_layernorm.weight", mla.q_lora_rank));
    ASSIGN_OR_RETURN(weights.q, checkpoint.Weight(prefix + "q_b_proj.weight", query_width, mla.q_lora_rank));
  } else {
    ASSIGN_OR_RETURN(weights.q, checkpoint.Weight(prefix + "q_proj.weight", query_width, spec.hidden));
  }
  ASSIGN_OR_RETURN(weights.kv_a,
                   checkpoint.Weight(prefix + "kv_a_proj_with_mqa.weight", mla.cache_width(), spec.hidden));
  ASSIGN_OR_RETURN(weights.kv_a_norm, checkpoint.Vector(prefix + "kv_a_layernorm.weight", mla.kv_lora_rank));
  ASSIGN_OR_RETURN(WeightView kv_b,
                   checkpoint.Weight(prefix + "kv_b_proj.weight",
                                     int64_t{mla.heads} * (mla.qk_nope_head_dim + mla.v_head_dim), mla.kv_lora_rank));
  SplitHeads(mla, kv_b, weights);
  ASSIGN_OR_RETURN(weights.o, checkpoint.Weight(prefix + "o_proj.weight", spec.hidden, value_width));
  if (!mla.bias) return weights;
  if (mla.q_lora_rank > 0) {
    ASSIGN_OR_RETURN(weights.q_a_bias, checkpoint.Vector(prefix + "q_a_proj.bias", mla.q_lora_rank));
  }
  ASSIGN_OR_RETURN(weights.kv_a_bias, checkpoint.Vector(prefix + "kv_a_proj_with_mqa.bias", mla.cache_width()));
  ASSIGN_OR_RETURN(weights.o_bias, checkpoint.Vector(prefix + "o_proj.bias", spec.hidden));
  return weights;
}

}  // namespace conclave
