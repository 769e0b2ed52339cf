// Everything of a model that an attention service computes with, on an accelerator: transformer_weights.h's twin.
#ifndef CONCLAVE_MOE_MODEL_DEVICE_DEVICE_WEIGHTS_H_
#define CONCLAVE_MOE_MODEL_DEVICE_DEVICE_WEIGHTS_H_

#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "moe/checkpoint/checkpoint.h"
#include "moe/kernels/accelerator/attention_ops.h"
#include "moe/kernels/accelerator/ops.h"
#include "moe/model/device/device_memory.h"
#include "moe/tensor/dtype.h"

namespace conclave {

// One decoder layer. Null pointers and null data: the model has none.
struct DeviceLayer {
  const float* attention_norm = nullptr;  // [hidden]
  DeviceWeight qkv_a;                     // q_a over kv_a; null where they cannot be one, or q_lora_rank is 0
  DeviceWeight q_a;                       // [q_lora_rank, hidden]; null where q_lora_rank is 0, or in qkv_a
  const float* q_a_bias = nullptr;        // [q_lora_rank]
  const float* q_a_norm = nullptr;        // [q_lora_rank]
  DeviceWeight q;                         // [heads * qk_head_dim, q_lora_rank or hidden]
  DeviceWeight kv_a;                      // [kv_lora_rank + rope, hidden]; null where in qkv_a
  const float* kv_a_bias = nullptr;       // [kv_lora_rank + rope]
  const float* kv_a_norm = nullptr;       // [kv_lora_rank]
  DeviceWeight kv_b;                      // [heads * (nope + v), kv_lora_rank]: each head's W_UK over its W_UV
  DeviceWeight key_up;                    // heads matrices [kv_lora_rank, nope]: each W_UK the other way round, or null
  DeviceWeight o;                         // [hidden, heads * v]
  const float* o_bias = nullptr;          // [hidden]
  const float* ffn_norm = nullptr;        // [hidden]
  DeviceWeight gate;                      // [experts, hidden]
  const float* gate_bias = nullptr;       // [experts]
  DeviceWeight gate_up;                   // 2 matrices [intermediate, hidden]: of a dense layer or the shared expert
  DeviceWeight down;                      // [hidden, intermediate]
};

// Owns the device memory that its pointers lead to.
struct DeviceWeights {
  DeviceWeight embedding;  // [vocab, hidden]
  std::vector<DeviceLayer> layers;
  const float* norm = nullptr;  // [hidden]
  DeviceWeight head;            // [vocab, hidden]; the embedding where they are tied
  RopeTable rope;               // of positions [0, context_max)
  DeviceBuffer memory;
};

// DenseLimits::weight_dtype of these layers.
DType FfnWeightDType(const std::vector<DeviceLayer>& layers);

// Errors as LoadTransformer, RESOURCE_EXHAUSTED with the plan, DATA_LOSS where a file was cut meanwhile.
absl::StatusOr<std::unique_ptr<DeviceWeights>> LoadDeviceWeights(const Checkpoint& checkpoint, int context_max,
                                                                 DeviceMemory& memory);

}  // namespace conclave

#endif  // CONCLAVE_MOE_MODEL_DEVICE_DEVICE_WEIGHTS_H_
