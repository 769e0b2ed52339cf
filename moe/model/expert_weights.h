// The matrices of routed experts, by layer and id: all of a model's, or those that one shard holds.
#ifndef CONCLAVE_MOE_MODEL_EXPERT_WEIGHTS_H_
#define CONCLAVE_MOE_MODEL_EXPERT_WEIGHTS_H_

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "moe/base/ids.h"
#include "moe/checkpoint/checkpoint.h"
#include "moe/model/expert_ffn.h"

namespace conclave {

// Bytes that the three matrices and their scales take in the checkpoint.
int64_t StoredBytes(const FfnWeights& ffn);

// Views only: the checkpoint must outlive the table. Not thread-safe while Add or Remove run.
class ExpertWeightTable {
 public:
  explicit ExpertWeightTable(const Checkpoint& checkpoint);

  // Resolves and checks one expert's tensors; adding one twice changes nothing. No page of them is touched.
  // INVALID_ARGUMENT: the layer routes to no experts, or there is no such expert. NOT_FOUND / DATA_LOSS as
  // Checkpoint::Weight, naming the tensor.
  absl::Status Add(LayerId layer, ExpertId expert);
  // Every expert of every MoE layer.
  absl::Status AddAll();
  void Remove(LayerId layer, ExpertId expert);

  // Null where the expert is not held or does not exist. Pointers live until Remove.
  const FfnWeights* Find(LayerId layer, ExpertId expert) const;
  // Stored bytes of all experts held.
  int64_t stored_bytes() const { return stored_bytes_; }

 private:
  bool Exists(LayerId layer, ExpertId expert) const;
  int64_t Index(LayerId layer, ExpertId expert) const;

  const Checkpoint& checkpoint_;
  int64_t stored_bytes_ = 0;
  std::vector<std::optional<FfnWeights>> experts_;  // [layers * experts]
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_MODEL_EXPERT_WEIGHTS_H_
