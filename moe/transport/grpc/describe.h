// Asks shards what they hold, over gRPC: control travels that way whatever carries the activations.
#ifndef CONCLAVE_MOE_TRANSPORT_GRPC_DESCRIBE_H_
#define CONCLAVE_MOE_TRANSPORT_GRPC_DESCRIBE_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "moe/transport/expert_handler.h"

namespace conclave {

// addresses: host:port of every shard. Waits for shards that still start or load until `deadline`.
// `model_fingerprint`: what the caller serves; empty: not checked. UNAVAILABLE and DEADLINE_EXCEEDED name the shard
// that did not answer, and what it said last; FAILED_PRECONDITION: it serves another model.
absl::StatusOr<std::vector<ShardDescription>> DescribeShards(const std::vector<std::string>& addresses,
                                                             const std::string& model_fingerprint, absl::Time deadline);

}  // namespace conclave

#endif  // CONCLAVE_MOE_TRANSPORT_GRPC_DESCRIBE_H_
