// Absorbed MLA on an accelerator: mla_attention.h's twin.
#ifndef CONCLAVE_MOE_MODEL_DEVICE_DEVICE_ATTENTION_H_
#define CONCLAVE_MOE_MODEL_DEVICE_DEVICE_ATTENTION_H_

#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "moe/base/ids.h"
#include "moe/checkpoint/model_spec.h"
#include "moe/model/device/device_memory.h"
#include "moe/model/device/device_weights.h"
#include "moe/model/device/step_plan.h"
#include "moe/model/kv_storage.h"

namespace conclave {

// What sizes the scratch of attention, and what it computes in.
struct AttentionLimits {
  LinearPrecision precision = LinearPrecision::kFloat32;
  DType head_dtype = DType::kF32;  // of all that a head has: queries, sums, values; F32 or BF16
  int64_t rows_max = 0;
  int64_t context_max = 0;
  void* workspace = nullptr;  // of products, see LinearArgs; or null
};

// Owns the scratch that all layers share.
class DeviceAttention {
 public:
  // RESOURCE_EXHAUSTED with the plan. `memory` must outlive the object.
  static absl::StatusOr<std::unique_ptr<DeviceAttention>> Create(const ModelSpec& spec, const RopeTable& rope,
                                                                 const AttentionLimits& limits,
                                                                 DeviceMemory& memory);

  // Queues out = o_proj(attention(x)) for the rows of `plan`, whose latents it writes into `kv` first, which is of
  // head_dtype or F8_E4M3.
  // tokens_max: no row of the plan sees more tokens, nor any that a graph runs in its place.
  // x [rows, hidden] of x_dtype, out [rows, hidden] F32, on the device.
  void Run(const DeviceLayer& weights, const void* x, DType x_dtype, const StepPlan& plan, int32_t tokens_max,
           LayerId layer, KvStorage& kv, float* out);

 private:
  DeviceAttention(const ModelSpec& spec, const RopeTable& rope, const AttentionLimits& limits, DeviceMemory& memory);
  absl::Status Allocate(DeviceMemory& memory);
  LinearArgs Product(const DeviceWeight& weight, const float* bias) const;
  void ProjectDown(const DeviceLayer& weights, const void* x, DType x_dtype);
  void ProjectQueries(const DeviceLayer& weights, const void* x, DType x_dtype);
  void FillCache(const DeviceLayer& weights, const StepPlan& plan, MatView cache);
  void AbsorbQueries(const DeviceLayer& weights, const void* query, int64_t count);
  void Attend(const StepPlan& plan, MatView cache, const KvStorage& kv, int32_t tokens_max, int64_t begin,
              int64_t count);
  void ExpandValues(const DeviceLayer& weights, int64_t begin, int64_t count);
  // Row `row` of a buffer whose rows have `width` values of head_dtype.
  void* HeadsRow(const DeviceBuffer& buffer, int64_t row, int64_t width) const {
    return buffer.as<std::byte>() + row * width * SizeOf(limits_.head_dtype);
  }
  int64_t WorkspaceBytes(int64_t rows, int64_t tokens_max) const;
  int64_t TileRows(int32_t tokens_max) const;
  // Of a row of latent_.
  int64_t latent_stride() const { return spec_.q_lora_rank + spec_.cache_width(); }

  const AttentionSpec spec_;
  const int hidden_;
  const RopeTable rope_;
  const AttentionLimits limits_;
  Accelerator& device_;
  const float scale_;
  int64_t tile_rows_ = 0;
  int64_t workspace_bytes_ = 0;
  int64_t rows_ = 0;       // of the step
  DeviceBuffer latent_;    // [rows_max, q_lora_rank + cache_width] F32: the query's latent, then what is cached
  DeviceBuffer query_;     // [rows_max, heads * qk_head_dim] head_dtype
  DeviceBuffer absorbed_;  // [tile, heads * cache_width] head_dtype
  DeviceBuffer mixed_;     // [tile, heads * kv_lora_rank] head_dtype: weighted sums of latents
  DeviceBuffer value_;     // [rows_max, heads * v_head_dim] head_dtype
  DeviceBuffer workspace_; // of Attend
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_MODEL_DEVICE_DEVICE_ATTENTION_H_
