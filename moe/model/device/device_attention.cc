#include "moe/model/device/device_attention.h"

#include <algorithm>
#include <vector>

#include "absl/memory/memory.h"
#include "moe/base/check.h"
#include "moe/base/status_macros.h"
#include "moe/model/kv_storage.h"
#include "moe/model/rope.h"

namespace conclave {
namespace {

// The published modeling code gives the norms of the latents this epsilon, whatever rms_norm_eps says.
constexpr float kLatentNormEps = 1e-6f;
// Rows whose absorbed queries exist at one time: they are heads * 576 values each in DeepSeek-V3.
constexpr int64_t kTileRows = 2048;
// Behind long contexts a row leaves several partial results: room for so many rows of the longest context, and for so
// many behind kSplitTokens.
constexpr int64_t kLongestRows = 16, kSplitRows = 512, kSplitTokens = 4096;

}  // namespace

absl::StatusOr<std::unique_ptr<DeviceAttention>> DeviceAttention::Create(const ModelSpec& spec, const RopeTable& rope,
                                                                         const AttentionLimits& limits,
                                                                         DeviceMemory& memory) {
  auto attention = absl::WrapUnique(new DeviceAttention(spec, rope, limits, memory));
  RETURN_IF_ERROR(attention->Allocate(memory));
  return attention;
}

DeviceAttention::DeviceAttention(const ModelSpec& spec, const RopeTable& rope, const AttentionLimits& limits,
                                 DeviceMemory& memory)
    : spec_(spec.attention),
      hidden_(spec.hidden),
      rope_(rope),
      limits_(limits),
      device_(memory.accelerator()),
      scale_(SoftmaxScale(spec.attention)) {}

absl::Status DeviceAttention::Allocate(DeviceMemory& memory) {
  const int64_t heads = spec_.heads, rows = limits_.rows_max;
  constexpr int64_t kF32 = sizeof(float);
  const int64_t head_size = SizeOf(limits_.head_dtype);
  tile_rows_ = std::min(rows, kTileRows);
  workspace_bytes_ = std::max(WorkspaceBytes(std::min(tile_rows_, kLongestRows), limits_.context_max),
                              WorkspaceBytes(std::min(tile_rows_, kSplitRows),
                                             std::min(limits_.context_max, kSplitTokens)));
  const std::vector<std::pair<DeviceBuffer*, int64_t>> buffers = {
      {&latent_, rows * latent_stride() * kF32},
      {&query_, rows * heads * spec_.qk_head_dim() * head_size},
      {&absorbed_, tile_rows_ * heads * spec_.cache_width() * head_size},
      {&mixed_, tile_rows_ * heads * spec_.kv_lora_rank * head_size},
      {&value_, rows * heads * spec_.v_head_dim * head_size},
      {&workspace_, workspace_bytes_},
  };
  int64_t total = 0;
  for (const auto& [buffer, bytes] : buffers) total += DeviceMemory::Rounded(bytes);
  RETURN_IF_ERROR(memory.Reserve("attention scratch", total));
  for (const auto& [buffer, bytes] : buffers) {
    ASSIGN_OR_RETURN(*buffer, memory.Allocate(bytes));
  }
  return absl::OkStatus();
}

int64_t DeviceAttention::WorkspaceBytes(int64_t rows, int64_t tokens_max) const {
  return device_.AttendWorkspaceBytes(rows, spec_.heads, spec_.kv_lora_rank, limits_.head_dtype, tokens_max);
}

// How many rows behind up to tokens_max tokens the scratch has room for.
int64_t DeviceAttention::TileRows(int32_t tokens_max) const {
  int64_t rows = tile_rows_;
  while (rows > 1 && WorkspaceBytes(rows, tokens_max) > workspace_bytes_) rows = (rows + 1) / 2;
  return rows;
}

void DeviceAttention::Run(const DeviceLayer& weights, const void* x, DType x_dtype, const StepPlan& plan,
                          int32_t tokens_max, LayerId layer, KvStorage& kv, float* out) {
  CONCLAVE_CHECK(kv.dtype() == limits_.head_dtype || kv.dtype() == DType::kF8E4M3) << Name(kv.dtype());
  rows_ = plan.rows();
  const MatView cache = kv.Block(layer, 0);  // and of the blocks behind it
  ProjectDown(weights, x, x_dtype);
  ProjectQueries(weights, x, x_dtype);
  FillCache(weights, plan, cache);
  const int64_t tile = TileRows(tokens_max);
  for (int64_t begin = 0; begin < rows_; begin += tile) {
    const int64_t count = std::min(tile, rows_ - begin);
    const void* const query = HeadsRow(query_, begin, int64_t{spec_.heads} * spec_.qk_head_dim());
    AbsorbQueries(weights, query, count);
    device_.RotateQueries({query, plan.positions() + begin, rope_, absorbed_.as<void>(), limits_.head_dtype, count,
                           spec_.heads, spec_.qk_nope_head_dim, spec_.kv_lora_rank});
    Attend(plan, cache, kv, tokens_max, begin, count);
    ExpandValues(weights, begin, count);
  }
  LinearArgs output = Product(weights.o, weights.o_bias);
  output.x = value_.as<void>();
  output.x_dtype = limits_.head_dtype;
  output.x_stride = int64_t{spec_.heads} * spec_.v_head_dim;
  output.out = out;
  output.out_stride = hidden_;
  device_.Linear(output);
}

// weight · x + bias of all rows; x and out are the caller's to add.
LinearArgs DeviceAttention::Product(const DeviceWeight& weight, const float* bias) const {
  LinearArgs linear;
  linear.w = weight;
  linear.bias = bias;
  linear.rows = rows_;
  linear.features = weight.rows;
  linear.precision = limits_.precision;
  linear.workspace = limits_.workspace;
  return linear;
}

// latent_ = q_a · x | kv_a · x.
void DeviceAttention::ProjectDown(const DeviceLayer& weights, const void* x, DType x_dtype) {
  const auto project = [&](const DeviceWeight& weight, const float* bias, int64_t column) {
    LinearArgs linear = Product(weight, bias);
    linear.x = x;
    linear.x_dtype = x_dtype;
    linear.x_stride = hidden_;
    linear.out = latent_.as<float>() + column;
    linear.out_stride = latent_stride();
    device_.Linear(linear);
  };
  if (weights.qkv_a.data != nullptr) return project(weights.qkv_a, nullptr, 0);
  if (spec_.q_lora_rank > 0) project(weights.q_a, weights.q_a_bias, 0);
  project(weights.kv_a, weights.kv_a_bias, spec_.q_lora_rank);
}

void DeviceAttention::ProjectQueries(const DeviceLayer& weights, const void* x, DType x_dtype) {
  LinearArgs linear = Product(weights.q, nullptr);
  linear.x = x;
  linear.x_dtype = x_dtype;
  linear.x_stride = hidden_;
  if (spec_.q_lora_rank > 0) {
    NormArgs norm;
    norm.x = latent_.as<float>();
    norm.weight = weights.q_a_norm;
    norm.out = latent_.as<float>();
    norm.rows = rows_;
    norm.cols = spec_.q_lora_rank;
    norm.x_stride = norm.out_stride = latent_stride();
    norm.eps = kLatentNormEps;
    device_.RmsNorm(norm);
    linear.x = latent_.as<float>();
    linear.x_dtype = DType::kF32;
    linear.x_stride = latent_stride();
  }
  linear.out = query_.as<void>();
  linear.out_dtype = limits_.head_dtype;
  linear.out_stride = int64_t{spec_.heads} * spec_.qk_head_dim();
  device_.Linear(linear);
}

void DeviceAttention::FillCache(const DeviceLayer& weights, const StepPlan& plan, MatView cache) {
  FillCacheArgs fill;
  fill.x = latent_.as<float>() + spec_.q_lora_rank;
  fill.x_stride = latent_stride();
  fill.weight = weights.kv_a_norm;
  fill.positions = plan.positions();
  fill.cache_rows = plan.cache_rows();
  fill.rope = rope_;
  fill.cache = cache.data;
  fill.cache_dtype = cache.dtype;
  fill.rows = rows_;
  fill.latent = spec_.kv_lora_rank;
  fill.eps = kLatentNormEps;
  device_.FillCache(fill);
}

// absorbed_ = q_nope · W_UK of each head.
void DeviceAttention::AbsorbQueries(const DeviceLayer& weights, const void* query, int64_t count) {
  const int64_t heads = spec_.heads;
  LinearArgs absorb;
  absorb.precision = limits_.precision;
  if (weights.key_up.data != nullptr) {
    absorb.w = weights.key_up;
    absorb.features = spec_.kv_lora_rank;
  } else {
    absorb.transposed = true;
    absorb.w = weights.kv_b;
    absorb.features = spec_.qk_nope_head_dim;
    absorb.row_step = spec_.qk_nope_head_dim + spec_.v_head_dim;
  }
  absorb.x = query;
  absorb.x_dtype = limits_.head_dtype;
  absorb.out = absorbed_.as<void>();
  absorb.out_dtype = limits_.head_dtype;
  absorb.rows = count;
  absorb.batch = heads;
  absorb.x_stride = heads * spec_.qk_head_dim();
  absorb.x_batch = spec_.qk_head_dim();
  absorb.out_stride = heads * spec_.cache_width();
  absorb.out_batch = spec_.cache_width();
  device_.Linear(absorb);
}

// mixed_ of rows [begin, begin + count).
void DeviceAttention::Attend(const StepPlan& plan, MatView cache, const KvStorage& kv, int32_t tokens_max,
                             int64_t begin, int64_t count) {
  AttendArgs attend;
  attend.query = absorbed_.as<void>();
  attend.cache = cache.data;
  attend.cache_dtype = cache.dtype;
  attend.dtype = limits_.head_dtype;
  attend.lengths = plan.lengths() + begin;
  attend.first_block = plan.first_block() + begin;
  attend.blocks = plan.blocks();
  attend.out = mixed_.as<void>();
  attend.rows = count;
  attend.heads = spec_.heads;
  attend.latent = spec_.kv_lora_rank;
  attend.rope = spec_.qk_rope_head_dim;
  attend.block_tokens = kv.block_tokens();
  attend.cache_blocks = kv.blocks();
  attend.tokens_max = tokens_max;
  attend.scale = scale_;
  attend.workspace = workspace_.as<void>();
  device_.Attend(attend);
}

// value_ = mixed_ · W_UV of each head.
void DeviceAttention::ExpandValues(const DeviceLayer& weights, int64_t begin, int64_t count) {
  const int64_t heads = spec_.heads;
  LinearArgs expand;
  expand.precision = limits_.precision;
  expand.x = mixed_.as<void>();
  expand.x_dtype = limits_.head_dtype;
  expand.w = weights.kv_b;
  expand.out = HeadsRow(value_, begin, heads * spec_.v_head_dim);
  expand.out_dtype = limits_.head_dtype;
  expand.rows = count;
  expand.batch = heads;
  expand.features = spec_.v_head_dim;
  expand.row_begin = spec_.qk_nope_head_dim;
  expand.row_step = spec_.qk_nope_head_dim + spec_.v_head_dim;
  expand.x_stride = heads * spec_.kv_lora_rank;
  expand.x_batch = spec_.kv_lora_rank;
  expand.out_stride = heads * spec_.v_head_dim;
  expand.out_batch = spec_.v_head_dim;
  device_.Linear(expand);
}

}  // namespace conclave
