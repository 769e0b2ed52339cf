// HoldingsControl over gRPC.
#ifndef CONCLAVE_MOE_TRANSPORT_GRPC_GRPC_HOLDINGS_CONTROL_H_
#define CONCLAVE_MOE_TRANSPORT_GRPC_GRPC_HOLDINGS_CONTROL_H_

#include <memory>
#include <string>

#include "moe/transport/holdings_control.h"

namespace grpc {
class ChannelCredentials;
}

namespace conclave {

// address: host:port of the shard. credentials: null for plaintext. Whatever model the shard serves.
std::unique_ptr<HoldingsControl> NewGrpcHoldingsControl(
    const std::string& address, std::shared_ptr<grpc::ChannelCredentials> credentials = nullptr);

}  // namespace conclave

#endif  // CONCLAVE_MOE_TRANSPORT_GRPC_GRPC_HOLDINGS_CONTROL_H_
