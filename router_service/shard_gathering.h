// The start of an attention service: waits for shards to describe themselves, without waiting for those that are not
// there.
#ifndef CONCLAVE_ROUTER_SERVICE_SHARD_GATHERING_H_
#define CONCLAVE_ROUTER_SERVICE_SHARD_GATHERING_H_

#include <functional>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "moe/base/clock.h"
#include "moe/transport/expert_handler.h"
#include "moe/transport/shard_control.h"

namespace conclave {

// How long to wait for whom.
struct ShardGatheringOptions {
  absl::Time deadline = absl::InfiniteFuture();  // for shards that load, and for the first of all
  absl::Duration grace = absl::Seconds(10);      // for shards that cannot be reached, after the last good news
  // Shards may join later: as long as those that are there do not hold all experts, others are waited for as well, for
  // the grace time. Null: who is not in the list does not come.
  std::function<bool(const std::vector<ShardDescription>&)> complete = nullptr;
  // Nobody wants the answer any more. Null: that does not happen.
  std::function<bool()> cancelled = nullptr;
  Clock* clock = Clock::Real();
};

// result[i] is what the shard at addresses[i] said of itself. Shards that load are waited for; ones that cannot be
// reached only for the grace time, and only as long as nobody else loads: they get a description without anything but
// the address for a name. `pause` waits for the time it is given.
// FAILED_PRECONDITION: a shard serves another model. DEADLINE_EXCEEDED names a shard that loads still, or that no shard
// is there at all. CANCELLED.
absl::StatusOr<std::vector<ShardDescription>> GatherShards(ShardControl& control,
                                                           const std::vector<std::string>& addresses,
                                                           const ShardGatheringOptions& options,
                                                           absl::FunctionRef<void(absl::Duration)> pause);

}  // namespace conclave

#endif  // CONCLAVE_ROUTER_SERVICE_SHARD_GATHERING_H_
