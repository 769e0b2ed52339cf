// What whoever moves experts between shards asks of one shard. Unlike ShardControl's questions, which an engine asks
// between two steps, these wait for their answers.
#ifndef CONCLAVE_MOE_TRANSPORT_HOLDINGS_CONTROL_H_
#define CONCLAVE_MOE_TRANSPORT_HOLDINGS_CONTROL_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "moe/placement/placement.h"
#include "moe/transport/expert_handler.h"

namespace conclave {

// A shard and what it has run.
struct ShardState {
  ShardDescription description;
  std::vector<LayerTokens> tokens;  // since its start
};

// Every call blocks for its timeout at most. Errors are the shard's, as ExpertHandler and protos/conclave/v1 tell them,
// or UNAVAILABLE and DEADLINE_EXCEEDED: it cannot be reached or is not ready (see kShardNotReady). Used by one thread
// at a time.
class HoldingsControl {
 public:
  virtual ~HoldingsControl() = default;
  virtual absl::StatusOr<ShardState> Describe(absl::Duration timeout) = 0;
  // The shard reads the weights before it announces them.
  virtual absl::StatusOr<ShardDescription> LoadExperts(absl::Span<const LayerHolding> experts,
                                                       absl::Duration timeout) = 0;
  virtual absl::StatusOr<ShardDescription> KeepExperts(absl::Span<const LayerHolding> experts, uint64_t revision,
                                                       absl::Duration timeout) = 0;
  virtual absl::StatusOr<ShardDescription> UnloadExperts(absl::Span<const LayerHolding> experts, uint64_t revision,
                                                         absl::Duration timeout) = 0;
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_TRANSPORT_HOLDINGS_CONTROL_H_
