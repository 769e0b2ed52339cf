// What a router asks of expert shards besides running rows: what they hold, and to hold more.
#ifndef CONCLAVE_MOE_TRANSPORT_SHARD_CONTROL_H_
#define CONCLAVE_MOE_TRANSPORT_SHARD_CONTROL_H_

#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "moe/base/ids.h"
#include "moe/placement/placement.h"
#include "moe/transport/expert_handler.h"

namespace conclave {

// How the message of UNAVAILABLE begins where the shard itself says it, while it loads.
inline constexpr char kShardNotReady[] = "the shard is not ready";

// An answer of one shard.
struct ShardNews {
  ShardId shard{0};
  bool of_load = false;  // to LoadExperts; else to Describe
  absl::StatusOr<ShardDescription> description;
};

// Used by one thread, the engine's; never blocks. Every question gets exactly one answer, within its timeout, from
// Next. DEADLINE_EXCEEDED and UNAVAILABLE: the shard cannot be reached or is not ready.
class ShardControl {
 public:
  virtual ~ShardControl() = default;
  // What the shard holds now.
  virtual void Describe(ShardId shard, absl::Duration timeout) = 0;
  // Asks the shard to hold `experts` too; the answer describes what it holds then. RESOURCE_EXHAUSTED: it has no room.
  virtual void LoadExperts(ShardId shard, const std::vector<LayerHolding>& experts, absl::Duration timeout) = 0;
  // The next answer that has come.
  virtual std::optional<ShardNews> Next() = 0;
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_TRANSPORT_SHARD_CONTROL_H_
