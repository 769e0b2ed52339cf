// Asks shards for connections of the data plane by conclave.v1.ExpertService.Connect.
#ifndef CONCLAVE_MOE_TRANSPORT_GRPC_GRPC_DATA_PLANE_CLIENT_H_
#define CONCLAVE_MOE_TRANSPORT_GRPC_GRPC_DATA_PLANE_CLIENT_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "moe/transport/data_plane.h"

namespace grpc {
class ChannelCredentials;
}

namespace conclave {

// addresses[i]: host:port of ShardId{i}'s control channel. `credentials`: null for plaintext. An answer that takes
// longer than `timeout` is DEADLINE_EXCEEDED.
std::unique_ptr<DataPlaneClient> NewGrpcDataPlaneClient(const std::vector<std::string>& addresses,
                                                        std::shared_ptr<grpc::ChannelCredentials> credentials = nullptr,
                                                        absl::Duration timeout = absl::Seconds(3));

// "0.0.0.0:7001" → "10.0.0.3:7001" where `peer` is gRPC's "ipv4:10.0.0.3:7000": a listener on all of its machine's
// addresses is reached at the one that the control channel reached. Other addresses are returned as they are.
std::string ReachableAddress(const std::string& listener, const std::string& peer);

}  // namespace conclave

#endif  // CONCLAVE_MOE_TRANSPORT_GRPC_GRPC_DATA_PLANE_CLIENT_H_
