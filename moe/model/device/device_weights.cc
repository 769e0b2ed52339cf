#include "moe/model/device/device_weights.h"

#include <cstring>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "moe/base/status_macros.h"
#include "moe/model/device/weight_uploader.h"
#include "moe/model/rope.h"
#include "moe/model/transformer_weights.h"
#include "moe/tensor/buffer.h"

namespace conclave {
namespace {

// Copies that live until they are on the device.
using Copies = std::vector<MatBuffer>;

// matrix[r, c] becomes copy[c, r], element by element as it is stored.
ConstMatView Transposed(ConstMatView matrix, Copies& copies) {
  copies.emplace_back(matrix.dtype, matrix.cols, matrix.rows);
  const MatView to = copies.back().view();
  const int64_t size = SizeOf(matrix.dtype);
  for (int64_t row = 0; row < matrix.rows; ++row) {
    const std::byte* values = matrix.RowBytes(row);
    for (int64_t col = 0; col < matrix.cols; ++col)
      std::memcpy(to.RowBytes(col) + row * size, values + col * size, size);
  }
  return to;
}

// Each head's W_UK transposed, so that a product with it reads along its rows as every other does. Only where scale
// blocks begin and end with the heads: no value changes.
void AddKeyUp(const MlaWeights& weights, DeviceLayer& to, WeightUploader& uploader, Copies& copies) {
  std::vector<WeightView> heads;
  for (const WeightView& key_up : weights.key_up) {
    if (key_up.has_scales() && (key_up.rows() % key_up.block_rows != 0 || key_up.block_rows != key_up.block_cols))
      return;
    WeightView head = key_up;
    head.matrix = Transposed(key_up.matrix, copies);
    if (key_up.has_scales()) head.scales = Transposed(key_up.scales, copies);
    heads.push_back(head);
  }
  uploader.Add(&to.key_up, std::move(heads));
}

// The two products of the layer's input as one, where dtypes agree and scale blocks do not straddle them.
void AddDownProjections(const MlaWeights& weights, int q_lora_rank, DeviceLayer& to, WeightUploader& uploader) {
  const WeightView &q_a = weights.q_a, &kv_a = weights.kv_a;
  if (q_lora_rank > 0 && weights.q_a_bias.empty() && weights.kv_a_bias.empty() &&
      q_a.matrix.dtype == kv_a.matrix.dtype && q_a.has_scales() == kv_a.has_scales() &&
      (!q_a.has_scales() || (q_a.block_rows == kv_a.block_rows && q_a.block_cols == kv_a.block_cols &&
                             q_a.rows() % q_a.block_rows == 0))) {
    uploader.AddStacked(&to.qkv_a, {q_a, kv_a});
    return;
  }
  if (q_lora_rank > 0) uploader.Add(&to.q_a, {q_a});
  uploader.Add(&to.kv_a, {kv_a});
}

absl::Status AddLayer(const Checkpoint& checkpoint, LayerId number, LayerWeights& from, DeviceLayer& to,
                      WeightUploader& uploader, Copies& copies) {
  const ModelSpec& spec = checkpoint.spec();
  const AttentionSpec& mla = spec.attention;
  MlaWeights& attention = from.attention;
  uploader.Add(&to.attention_norm, std::move(from.attention_norm));
  AddDownProjections(attention, mla.q_lora_rank, to, uploader);
  uploader.Add(&to.q_a_bias, std::move(attention.q_a_bias));
  uploader.Add(&to.q_a_norm, std::move(attention.q_a_norm));
  uploader.Add(&to.q, {attention.q});
  uploader.Add(&to.kv_a_bias, std::move(attention.kv_a_bias));
  uploader.Add(&to.kv_a_norm, std::move(attention.kv_a_norm));
  ASSIGN_OR_RETURN(const WeightView kv_b,
                   checkpoint.Weight(absl::StrCat("model.layers.", Value(number), ".self_attn.kv_b_proj.weight"),
                                     int64_t{mla.heads} * (mla.qk_nope_head_dim + mla.v_head_dim), mla.kv_lora_rank));
  uploader.Add(&to.kv_b, {kv_b});
  AddKeyUp(attention, to, uploader, copies);
  uploader.Add(&to.o, {attention.o});
  uploader.Add(&to.o_bias, std::move(attention.o_bias));
  uploader.Add(&to.ffn_norm, std::move(from.ffn_norm));
  if (from.gate.has_value()) {
    uploader.Add(&to.gate, {from.gate->matrix});
    uploader.Add(&to.gate_bias, std::move(from.gate->bias));
  }
  if (from.ffn.has_value()) {
    uploader.Add(&to.gate_up, {from.ffn->gate, from.ffn->up});
    uploader.Add(&to.down, {from.ffn->down});
  }
  return absl::OkStatus();
}

// The CPU's own angles, so that both devices rotate by the same ones.
void AddRope(const AttentionSpec& spec, int context_max, RopeTable& table, WeightUploader& uploader) {
  Rope rope(spec, context_max);
  std::vector<int32_t> positions(context_max);
  std::iota(positions.begin(), positions.end(), 0);
  rope.SetPositions(positions);
  table.pairs = spec.qk_rope_head_dim / 2;
  table.interleaved = spec.rope_interleaved;
  const auto copy = [&](ConstMatView view) {
    const float* values = view.Row<float>(0);
    return std::vector<float>(values, values + view.rows * view.cols);
  };
  uploader.Add(&table.cosines, copy(rope.cosines()));
  uploader.Add(&table.sines, copy(rope.sines()));
}

// E4M3 in scale blocks of 128 x 128, none of which is cut short.
bool InWholeBlocks(const DeviceWeight& weight) {
  constexpr int kBlock = 128;
  return weight.dtype == DType::kF8E4M3 && weight.scales != nullptr && weight.block_rows == kBlock &&
         weight.block_cols == kBlock && weight.rows % kBlock == 0 && weight.cols % kBlock == 0;
}

}  // namespace

DType FfnWeightDType(const std::vector<DeviceLayer>& layers) {
  DType dtype = DType::kF8E4M3;
  for (const DeviceLayer& layer : layers) {
    if (layer.down.data == nullptr) continue;
    if (layer.down.dtype == DType::kBF16) return DType::kBF16;
    if (!InWholeBlocks(layer.gate_up) || !InWholeBlocks(layer.down)) dtype = DType::kF32;
  }
  return dtype;
}

absl::StatusOr<std::unique_ptr<DeviceWeights>> LoadDeviceWeights(const Checkpoint& checkpoint, int context_max,
                                                                 DeviceMemory& memory) {
  const ModelSpec& spec = checkpoint.spec();
  ASSIGN_OR_RETURN(TransformerWeights weights, LoadTransformer(checkpoint));
  auto loaded = std::make_unique<DeviceWeights>();
  WeightUploader uploader;
  Copies copies;
  uploader.Add(&loaded->embedding, {weights.embedding});
  loaded->layers.resize(weights.layers.size());
  for (size_t i = 0; i < weights.layers.size(); ++i) {
    RETURN_IF_ERROR(
        AddLayer(checkpoint, LayerId{static_cast<int32_t>(i)}, weights.layers[i], loaded->layers[i], uploader,
                             copies));
  }
  uploader.Add(&loaded->norm, std::move(weights.norm));
  if (!spec.tie_word_embeddings) uploader.Add(&loaded->head, {weights.head});
  AddRope(spec.attention, context_max, loaded->rope, uploader);
  RETURN_IF_ERROR(memory.Reserve("attention weights", uploader.bytes()));
  ASSIGN_OR_RETURN(loaded->memory, uploader.Run(memory, {}));
  if (spec.tie_word_embeddings) loaded->head = loaded->embedding;
  RETURN_IF_ERROR(checkpoint.CheckStillWhole());
  return loaded;
}

}  // namespace conclave
