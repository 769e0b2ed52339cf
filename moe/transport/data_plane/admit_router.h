// What every data plane asks of a router before it offers a connection.
#ifndef CONCLAVE_MOE_TRANSPORT_DATA_PLANE_ADMIT_ROUTER_H_
#define CONCLAVE_MOE_TRANSPORT_DATA_PLANE_ADMIT_ROUTER_H_

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "moe/transport/data_plane.h"
#include "moe/transport/data_plane/token_book.h"
#include "moe/transport/expert_handler.h"
#include "moe/transport/peer_gate.h"

namespace conclave {

// An offer with version, connection and token; what is the plane's own is left to it. own: what the shard serves. fits:
// what the plane itself asks for. Errors are DataPlane::Connect's, and INVALID_ARGUMENT for a peer without a name; a
// router in quarantine, and one that does not fit, are counted in `gate`. Thread-safe.
absl::StatusOr<DataPlaneOffer> AdmitRouter(
    const DataPlaneRequest& request, const ShardDescription& own, Carrier carrier, PeerGate& gate, TokenBook& tokens,
    absl::FunctionRef<absl::Status()> fits = [] { return absl::OkStatus(); });

}  // namespace conclave

#endif  // CONCLAVE_MOE_TRANSPORT_DATA_PLANE_ADMIT_ROUTER_H_
