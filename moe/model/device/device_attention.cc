#include "moe/model/device/device_attention.h"

#include <algorithm>
#include <vector>

#include "absl/memory/memory.h"
#include "moe/base/status_macros.h"
#include "moe/model/kv_storage.h"
#include "moe/model/rope.h"

namespace conclave {
namespace {

// The published modeling code gives the norms of the latents this epsilon, whatever rms_norm_eps says.
constexpr float kLatentNormEps = 1e-6f;
// Rows whose absorbed queries exist at one time: they are heads * 576 floats each in DeepSeek-V3.
constexpr int64_t kTileRows = 2048;

}  // namespace

absl::StatusOr<std::unique_ptr<DeviceAttention>> DeviceAttention::Create(const ModelSpec& spec, const RopeTable& rope,
                                                                         LinearPrecision precision, int64_t rows_max,
                                                                         DeviceMemory& memory) {
  auto attention = absl::WrapUnique(new DeviceAttention(spec, rope, precision, memory));
  const AttentionSpec& mla = spec.attention;
  const int64_t heads = mla.heads, tile = std::min(rows_max, kTileRows);
  attention->tile_rows_ = tile;
  const std::vector<std::pair<DeviceBuffer*, int64_t>> buffers = {
      {&attention->q_latent_, rows_max * std::max(mla.q_lora_rank, 1)},
      {&attention->query_, rows_max * heads * mla.qk_head_dim()},
      {&attention->latent_, rows_max * mla.cache_width()},
      {&attention->absorbed_, tile * heads * mla.cache_width()},
      {&attention->mixed_, tile * heads * mla.kv_lora_rank},
      {&attention->value_, rows_max * heads * mla.v_head_dim},
  };
  int64_t total = 0;
  for (const auto& [buffer, floats] : buffers) total += DeviceMemory::Rounded(floats * int64_t{sizeof(float)});
  RETURN_IF_ERROR(memory.Reserve("attention scratch", total));
  for (const auto& [buffer, floats] : buffers) {
    ASSIGN_OR_RETURN(*buffer, memory.Allocate(floats * int64_t{sizeof(float)}));
  }
  return attention;
}

DeviceAttention::DeviceAttention(const ModelSpec& spec, const RopeTable& rope, LinearPrecision precision,
                                 DeviceMemory& memory)
    : spec_(spec.attention),
      hidden_(spec.hidden),
      rope_(rope),
      precision_(precision),
      device_(memory.accelerator()),
      scale_(SoftmaxScale(spec.attention)) {}

void DeviceAttention::Run(const DeviceLayer& weights, const float* x, const StepPlan& plan, void* cache,
                          DType cache_dtype, float* out) {
  rows_ = plan.rows();
  ProjectQueries(weights, x);
  FillCache(weights, x, plan, cache, cache_dtype);
  for (int64_t begin = 0; begin < rows_; begin += tile_rows_) {
    AttendTile(weights, plan, cache, cache_dtype, begin, std::min(tile_rows_, rows_ - begin));
  }
  Project(value_.as<float>(), int64_t{spec_.heads} * spec_.v_head_dim, weights.o, weights.o_bias, out);
}

// out = weight · x + bias, both rows contiguous.
void DeviceAttention::Project(const float* x, int64_t cols, const DeviceWeight& weight, const float* bias,
                              float* out) {
  LinearArgs linear;
  linear.x = x;
  linear.w = weight;
  linear.bias = bias;
  linear.out = out;
  linear.rows = rows_;
  linear.features = linear.out_stride = weight.rows;
  linear.x_stride = cols;
  linear.precision = precision_;
  device_.Linear(linear);
}

void DeviceAttention::ProjectQueries(const DeviceLayer& weights, const float* x) {
  if (spec_.q_lora_rank == 0) {
    Project(x, hidden_, weights.q, nullptr, query_.as<float>());
    return;
  }
  float* const q_latent = q_latent_.as<float>();
  Project(x, hidden_, weights.q_a, weights.q_a_bias, q_latent);
  NormArgs norm;
  norm.x = q_latent;
  norm.weight = weights.q_a_norm;
  norm.out = q_latent;
  norm.rows = rows_;
  norm.cols = norm.x_stride = norm.out_stride = spec_.q_lora_rank;
  norm.eps = kLatentNormEps;
  device_.RmsNorm(norm);
  Project(q_latent, spec_.q_lora_rank, weights.q, nullptr, query_.as<float>());
}

void DeviceAttention::FillCache(const DeviceLayer& weights, const float* x, const StepPlan& plan, void* cache,
                                DType cache_dtype) {
  Project(x, hidden_, weights.kv_a, weights.kv_a_bias, latent_.as<float>());
  FillCacheArgs fill;
  fill.x = latent_.as<float>();
  fill.weight = weights.kv_a_norm;
  fill.positions = plan.positions();
  fill.cache_rows = plan.cache_rows();
  fill.rope = rope_;
  fill.cache = cache;
  fill.cache_dtype = cache_dtype;
  fill.rows = rows_;
  fill.latent = spec_.kv_lora_rank;
  fill.eps = kLatentNormEps;
  device_.FillCache(fill);
}

// absorbed_ = q_nope · W_UK of each head.
void DeviceAttention::AbsorbQueries(const DeviceLayer& weights, const float* query, int64_t count) {
  const int64_t heads = spec_.heads;
  LinearArgs absorb;
  absorb.precision = precision_;
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
  absorb.out = absorbed_.as<float>();
  absorb.rows = count;
  absorb.batch = heads;
  absorb.x_stride = heads * spec_.qk_head_dim();
  absorb.x_batch = spec_.qk_head_dim();
  absorb.out_stride = heads * spec_.cache_width();
  absorb.out_batch = spec_.cache_width();
  device_.Linear(absorb);
}

// value_ of rows [begin, begin + count): queries into the latent space, attention there, and out of it again.
void DeviceAttention::AttendTile(const DeviceLayer& weights, const StepPlan& plan, const void* cache,
                                 DType cache_dtype, int64_t begin, int64_t count) {
  const int64_t heads = spec_.heads, head_rows = spec_.qk_nope_head_dim + spec_.v_head_dim;
  const float* const query = query_.as<float>() + begin * heads * spec_.qk_head_dim();
  AbsorbQueries(weights, query, count);
  device_.RotateQueries({query, plan.positions() + begin, rope_, absorbed_.as<float>(), count, spec_.heads,
                         spec_.qk_nope_head_dim, spec_.kv_lora_rank});
  AttendArgs attend;
  attend.query = absorbed_.as<float>();
  attend.cache = cache;
  attend.cache_dtype = cache_dtype;
  attend.positions = plan.positions() + begin;
  attend.first_block = plan.first_block() + begin;
  attend.blocks = plan.blocks();
  attend.out = mixed_.as<float>();
  attend.rows = count;
  attend.heads = spec_.heads;
  attend.latent = spec_.kv_lora_rank;
  attend.rope = spec_.qk_rope_head_dim;
  attend.block_tokens = kKvBlockTokens;
  attend.scale = scale_;
  device_.Attend(attend);
  LinearArgs expand;
  expand.precision = precision_;
  expand.x = mixed_.as<float>();
  expand.w = weights.kv_b;
  expand.out = value_.as<float>() + begin * heads * spec_.v_head_dim;
  expand.rows = count;
  expand.batch = heads;
  expand.features = spec_.v_head_dim;
  expand.row_begin = spec_.qk_nope_head_dim;
  expand.row_step = head_rows;
  expand.x_stride = heads * spec_.kv_lora_rank;
  expand.x_batch = spec_.kv_lora_rank;
  expand.out_stride = heads * spec_.v_head_dim;
  expand.out_batch = spec_.v_head_dim;
  device_.Linear(expand);
}

}  // namespace conclave
