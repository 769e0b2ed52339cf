// Which shards hold which experts: an immutable map with an epoch, and the rule that deals experts out to shards
// where nobody plans anything better.
#ifndef CONCLAVE_MOE_PLACEMENT_PLACEMENT_H_
#define CONCLAVE_MOE_PLACEMENT_PLACEMENT_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "moe/base/ids.h"

namespace conclave {

// The epoch of a placement that follows from ExpertsOfShard alone and never changes.
inline constexpr uint64_t kStaticPlacementEpoch = 1;

// The experts of one layer that a shard holds.
struct LayerHolding {
  LayerId layer{0};
  std::vector<ExpertId> experts;  // ascending, no duplicates
};

// All that one shard holds.
struct ShardHoldings {
  std::string name;                    // for messages
  std::vector<LayerHolding> holdings;  // at most one for each layer
};

// The static rule: shard `shard_index` of `shard_count` holds the experts [E·i / N, E·(i+1) / N) of every layer.
// Contiguous, because the gate of this family prefers experts of few groups, and groups are contiguous ids
// (DeepSeek-V3, section 2.1.2): a row then travels to fewer shards than if experts were dealt out in turn.
// Balanced to within one expert; with more shards than experts some shards hold none.
// With `replicas` R > 1 it also holds what the next R - 1 shards around the ring hold by that rule, so that every
// expert lives on R shards, and the work of a shard that dies falls to its two neighbours rather than to one twin.
// A shard_index of N or more is a further shard: it holds no share of its own, but a slice of each (with R replicas R
// slices), so that it takes work from all N alike; the slices of N further shards hold every expert once more. So a
// pool of shards can grow and shrink while it serves, without any of the first N changing what it holds.
// Ascending. REQUIRES: expert_count >= 0, 0 <= shard_index, 1 <= replicas <= shard_count
std::vector<ExpertId> ExpertsOfShard(int expert_count, int shard_index, int shard_count, int replicas = 1);

// "0-15, 20, 30-31"; "none" where empty. For messages. REQUIRES: ascending
std::string FormatExperts(absl::Span<const ExpertId> experts);

// Immutable, so thread-safe. Shared by pointer; a new placement is a new object with another epoch.
class Placement {
 public:
  // `layers`: the MoE layers, ascending. `experts`: experts in each of them. shards[i] is what ShardId{i} holds.
  // INVALID_ARGUMENT names a shard that claims a layer or expert outside of the model, or claims one twice.
  // Experts that no shard holds are taken; see CheckComplete.
  static absl::StatusOr<std::shared_ptr<const Placement>> Create(uint64_t epoch, absl::Span<const LayerId> layers,
                                                                 int experts, absl::Span<const ShardHoldings> shards);

  uint64_t epoch() const { return epoch_; }
  int shards() const { return shards_; }
  int experts() const { return experts_; }
  absl::Span<const LayerId> layers() const { return layers_; }
  bool HasLayer(LayerId layer) const { return IndexOf(layer) >= 0; }
  // The shards that hold the expert, ascending; empty where none does, or where the model has no such expert.
  absl::Span<const ShardId> Holders(LayerId layer, ExpertId expert) const;
  // UNAVAILABLE names the first expert that no shard holds, and counts the others.
  absl::Status CheckComplete() const;

 private:
  Placement() = default;
  int IndexOf(LayerId layer) const;

  uint64_t epoch_ = 0;
  int shards_ = 0;
  int experts_ = 0;
  std::vector<LayerId> layers_;
  std::vector<int32_t> index_of_layer_;  // by layer number; -1: no MoE layer
  std::vector<int32_t> begin_;           // [layers * experts + 1] into holders_
  std::vector<ShardId> holders_;         // ascending for each expert
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_PLACEMENT_PLACEMENT_H_
