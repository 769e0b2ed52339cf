// How channels to expert shards are opened; internal to this folder.
#ifndef CONCLAVE_MOE_TRANSPORT_GRPC_EXPERT_CHANNEL_H_
#define CONCLAVE_MOE_TRANSPORT_GRPC_EXPERT_CHANNEL_H_

#include <memory>
#include <string>

namespace grpc {
class Channel;
class ChannelCredentials;
}  // namespace grpc

namespace conclave {

// A channel with a connection of its own, which returns quickly to a shard that comes back.
// address: host:port. message_bytes_max: of one message, either way. credentials: null for plaintext.
std::shared_ptr<grpc::Channel> NewExpertChannel(const std::string& address, int message_bytes_max,
                                                std::shared_ptr<grpc::ChannelCredentials> credentials);

}  // namespace conclave

#endif  // CONCLAVE_MOE_TRANSPORT_GRPC_EXPERT_CHANNEL_H_
