// The two nested parts of config.json that have several published spellings. Private to this folder: it brings
// nlohmann's forward declarations with it.
#ifndef CONCLAVE_MOE_CHECKPOINT_MODEL_CONFIG_PARTS_H_
#define CONCLAVE_MOE_CHECKPOINT_MODEL_CONFIG_PARTS_H_

#include "absl/status/status.h"
#include "moe/checkpoint/model_spec.h"
#include "nlohmann/json_fwd.hpp"

namespace conclave {

// rope_theta and rope_scaling, or rope_parameters, of config.json `root` into theta and YaRN. Where several places
// say the same thing they must agree. INVALID_ARGUMENT names the field.
absl::Status ParseRope(const nlohmann::json& root, AttentionSpec& attention);

// quantization_config of config.json `root`; none leaves `spec` as it is, else block_quant or packed_quant is set.
// INVALID_ARGUMENT names the method that is not supported.
absl::Status ParseQuantization(const nlohmann::json& root, ModelSpec& spec);

}  // namespace conclave

#endif  // CONCLAVE_MOE_CHECKPOINT_MODEL_CONFIG_PARTS_H_
