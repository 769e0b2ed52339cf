#include "moe/transport/data_plane/admit_router.h"

#include <cstdint>
#include <utility>

#include "moe/base/status_macros.h"
#include "moe/transport/check_caller.h"
#include "moe/transport/data_plane/wire.h"

namespace conclave {
namespace {

// The version of the wire format that both speak.
absl::StatusOr<uint32_t> Agree(const DataPlaneRequest& request, const ShardDescription& own,
                               absl::FunctionRef<absl::Status()> fits) {
  ASSIGN_OR_RETURN(const uint32_t version, AgreeOnVersion(request.version_min, request.version_max));
  RETURN_IF_ERROR(fits());
  RETURN_IF_ERROR(CheckCaller(own, request.model_fingerprint, request.numeric_profile, request.placement_epoch));
  return version;
}

}  // namespace

absl::StatusOr<DataPlaneOffer> AdmitRouter(const DataPlaneRequest& request, const ShardDescription& own,
                                           Carrier carrier, PeerGate& gate, TokenBook& tokens,
                                           absl::FunctionRef<absl::Status()> fits) {
  if (request.peer.empty() || request.peer.size() > 200) {
    return absl::InvalidArgumentError("peer: 1 to 200 bytes are expected");
  }
  const Peer peer{request.peer, ""};
  if (absl::Status admitted = gate.Admit(peer.Culprit()); !admitted.ok()) {
    gate.Refuse(carrier, Refusal::kConnection, peer, admitted.message());
    return admitted;
  }
  const absl::StatusOr<uint32_t> version = Agree(request, own, fits);
  if (!version.ok()) {
    gate.Refuse(carrier, Refusal::kMismatch, peer, version.status().message());
    return version.status();
  }
  ASSIGN_OR_RETURN(TokenBook::Ticket ticket, tokens.Issue(request.peer));
  DataPlaneOffer offer;
  offer.version = *version;
  offer.connection = ticket.connection;
  offer.token = std::move(ticket.token);
  return offer;
}

}  // namespace conclave
