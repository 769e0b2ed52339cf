// The transport that works everywhere: one long-lived bidirectional gRPC stream to each shard.
//
// There is no thread of its own: the caller's thread polls one completion queue in Progress, which is where replies
// are read and sockets are served. A hand-off to another thread would cost more than a small message.
#ifndef CONCLAVE_MOE_TRANSPORT_GRPC_GRPC_TRANSPORT_H_
#define CONCLAVE_MOE_TRANSPORT_GRPC_GRPC_TRANSPORT_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "moe/transport/transport.h"

namespace grpc {
class ChannelCredentials;
}

namespace conclave {

// What a router expects of its shards, and its patience with them.
struct GrpcTransportOptions {
  std::string name = "router";  // stands in the shards' logs; printable ASCII
  // What shards must serve; a shard refuses the stream where it differs. Empty: not checked.
  std::string model_fingerprint;
  std::string numeric_profile;  // leave empty to allow mixed numerics
  // Requests and replies bring checksums; a damaged one is DATA_LOSS. Costs a pass over the rows at each end.
  bool checksum = false;
  // A stream that broke is opened again after this long, twice as long after each failure in a row.
  absl::Duration backoff_min = absl::Milliseconds(20);
  absl::Duration backoff_max = absl::Milliseconds(250);
  std::shared_ptr<grpc::ChannelCredentials> credentials;  // null: plaintext
};

// addresses[i]: host:port of ShardId{i}. Streams are opened by the first Progress or Call, and again after they broke.
// While a shard is away, its calls end at once with UNAVAILABLE and the reason. Call never blocks: what the network
// does not take yet waits in memory, until its deadline. Done of calls that are in flight when the transport is
// destroyed is dropped.
std::unique_ptr<Transport> NewGrpcTransport(const std::vector<std::string>& addresses,
                                            const GrpcTransportOptions& options);

}  // namespace conclave

#endif  // CONCLAVE_MOE_TRANSPORT_GRPC_GRPC_TRANSPORT_H_
