// The experts that one shard holds: their weights as views into the checkpoint, resolved at start and touched on
// demand. Nothing of any other expert is mapped.
#ifndef CONCLAVE_EXPERT_SERVICE_EXPERT_STORE_H_
#define CONCLAVE_EXPERT_SERVICE_EXPERT_STORE_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "moe/base/ids.h"
#include "moe/checkpoint/checkpoint.h"
#include "moe/model/expert_weights.h"
#include "moe/placement/placement.h"

namespace conclave {

// Thread-safe, but for Hold and Drop, each of which must be alone; with Prepare and Load it need not.
class ExpertStore {
 public:
  // Told how many of the shard's experts are in memory, and their stored bytes.
  using Progress = std::function<void(int64_t experts_loaded, int64_t experts_total, int64_t bytes_loaded)>;

  // Resolves shard `shard_index` of `shard_count` by ExpertsOfShard: maps its tensors, and touches no page of them.
  // `checkpoint` must outlive the store. INVALID_ARGUMENT: no such shard, or a model without routed experts.
  // NOT_FOUND / DATA_LOSS as Checkpoint::Weight, naming the tensor.
  static absl::StatusOr<std::unique_ptr<ExpertStore>> Create(const Checkpoint& checkpoint, int shard_index,
                                                             int shard_count, int replicas = 1);

  // Brings all weights into memory, so that the first token does not wait for the disk. DATA_LOSS: a file was cut.
  absl::Status LoadAll(const Progress& progress) const;

  // Holds `experts` too and tells which of them are new. Maps their tensors and touches no page of them. Pointers from
  // Find stay good until their expert is dropped. INVALID_ARGUMENT: the model has no such expert, and nothing has
  // changed. RESOURCE_EXHAUSTED: more than `bytes_max` stored bytes would then be held (0: any), and nothing has
  // changed. NOT_FOUND / DATA_LOSS as Checkpoint::Weight, naming the tensor; what came before it is held.
  absl::StatusOr<std::vector<LayerHolding>> Hold(absl::Span<const LayerHolding> experts, int64_t bytes_max);
  // Brings the weights of `held` into memory. Must not race with a Drop of them.
  absl::Status Load(const LayerHolding& held) const;
  // The same of experts that need not be held. INVALID_ARGUMENT as Hold; NOT_FOUND / DATA_LOSS as Checkpoint::Weight.
  absl::Status Prepare(absl::Span<const LayerHolding> experts) const;
  // OK where all of them are held. INVALID_ARGUMENT as Hold; FAILED_PRECONDITION names the first that is not.
  absl::Status CheckHeld(absl::Span<const LayerHolding> experts) const;
  // Holds them no more and lets their pages go. REQUIRES: CheckHeld is OK.
  void Drop(absl::Span<const LayerHolding> experts);

  // Null where the expert is not held here, or does not exist.
  const FfnWeights* Find(LayerId layer, ExpertId expert) const { return weights_.Find(layer, expert); }
  // Ascending by layer; every MoE layer is there, also where this shard holds none of its experts.
  const std::vector<LayerHolding>& holdings() const { return holdings_; }
  int64_t experts() const { return experts_; }
  int64_t stored_bytes() const { return weights_.stored_bytes(); }
  // Of so many of the experts held: those of a model are all of one size.
  int64_t stored_bytes(int64_t experts) const { return experts_ == 0 ? 0 : stored_bytes() / experts_ * experts; }
  // "layer 3: 8-15" for messages; says so where the layer routes to no experts.
  std::string Summary(LayerId layer) const;

 private:
  absl::Status CheckExists(absl::Span<const LayerHolding> experts) const;
  absl::StatusOr<std::vector<LayerHolding>> NewOf(absl::Span<const LayerHolding> experts) const;

  explicit ExpertStore(const Checkpoint& checkpoint) : checkpoint_(checkpoint), weights_(checkpoint) {}

  const Checkpoint& checkpoint_;
  ExpertWeightTable weights_;
  std::vector<LayerHolding> holdings_;
  int64_t experts_ = 0;
};

}  // namespace conclave

#endif  // CONCLAVE_EXPERT_SERVICE_EXPERT_STORE_H_
