// Who is at the other end of a gRPC connection; internal to this folder.
#ifndef CONCLAVE_MOE_TRANSPORT_GRPC_PEER_HOST_H_
#define CONCLAVE_MOE_TRANSPORT_GRPC_PEER_HOST_H_

#include <string>

#include "absl/strings/string_view.h"

namespace conclave {

// The host in what gRPC calls a peer: "ipv4:10.0.0.3:7000" → "10.0.0.3", "ipv6:%5B::1%5D:7000" → "[::1]"; anything else
// is returned as it is.
std::string HostOfPeer(absl::string_view peer);

}  // namespace conclave

#endif  // CONCLAVE_MOE_TRANSPORT_GRPC_PEER_HOST_H_
