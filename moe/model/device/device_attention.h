// Absorbed MLA on an accelerator: mla_attention.h's twin.
#ifndef CONCLAVE_MOE_MODEL_DEVICE_DEVICE_ATTENTION_H_
#define CONCLAVE_MOE_MODEL_DEVICE_DEVICE_ATTENTION_H_

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "moe/checkpoint/model_spec.h"
#include "moe/model/device/device_memory.h"
#include "moe/model/device/device_weights.h"
#include "moe/model/device/step_plan.h"

namespace conclave {

// Owns the scratch that all layers share.
class DeviceAttention {
 public:
  // RESOURCE_EXHAUSTED with the plan. `memory` must outlive the object.
  static absl::StatusOr<std::unique_ptr<DeviceAttention>> Create(const ModelSpec& spec, const RopeTable& rope,
                                                                 LinearPrecision precision, int64_t rows_max,
                                                                 DeviceMemory& memory);

  // Queues out = o_proj(attention(x)) for the rows of `plan`, whose latents it writes into `cache` first: the layer's
  // [blocks * kKvBlockTokens, cache_width]. x, out: [rows, hidden] F32 on the device.
  void Run(const DeviceLayer& weights, const float* x, const StepPlan& plan, void* cache, DType cache_dtype,
           float* out);

 private:
  DeviceAttention(const ModelSpec& spec, const RopeTable& rope, LinearPrecision precision, DeviceMemory& memory);
  void Project(const float* x, int64_t cols, const DeviceWeight& weight, const float* bias, float* out);
  void ProjectQueries(const DeviceLayer& weights, const float* x);
  void FillCache(const DeviceLayer& weights, const float* x, const StepPlan& plan, void* cache, DType cache_dtype);
  void AbsorbQueries(const DeviceLayer& weights, const float* query, int64_t count);
  void AttendTile(const DeviceLayer& weights, const StepPlan& plan, const void* cache, DType cache_dtype,
                  int64_t begin, int64_t count);

  const AttentionSpec spec_;
  const int hidden_;
  const RopeTable rope_;
  const LinearPrecision precision_;
  Accelerator& device_;
  const float scale_;
  int64_t tile_rows_ = 0;
  int64_t rows_ = 0;       // of the step
  DeviceBuffer q_latent_;  // [rows_max, q_lora_rank] F32
  DeviceBuffer query_;     // [rows_max, heads * qk_head_dim] F32
  DeviceBuffer latent_;    // [rows_max, cache_width] F32
  DeviceBuffer absorbed_;  // [tile, heads * cache_width] F32
  DeviceBuffer mixed_;     // [tile, heads * kv_lora_rank] F32: weighted sums of latents
  DeviceBuffer value_;     // [rows_max, heads * v_head_dim] F32
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_MODEL_DEVICE_DEVICE_ATTENTION_H_
