// Asks shards over gRPC, whatever carries the activations.
#ifndef CONCLAVE_MOE_TRANSPORT_GRPC_GRPC_SHARD_CONTROL_H_
#define CONCLAVE_MOE_TRANSPORT_GRPC_GRPC_SHARD_CONTROL_H_

#include <memory>
#include <string>
#include <vector>

#include "moe/transport/shard_control.h"

namespace grpc {
class ChannelCredentials;
}

namespace conclave {

// addresses[i]: host:port of ShardId{i}. `model_fingerprint`: what the caller serves; shards that serve another model
// answer FAILED_PRECONDITION. `credentials`: null for plaintext. The destructor takes open questions back.
std::unique_ptr<ShardControl> NewGrpcShardControl(const std::vector<std::string>& addresses,
                                                  const std::string& model_fingerprint,
                                                  std::shared_ptr<grpc::ChannelCredentials> credentials = nullptr);

}  // namespace conclave

#endif  // CONCLAVE_MOE_TRANSPORT_GRPC_GRPC_SHARD_CONTROL_H_
