// The shard's end of the gRPC transport: conclave.v1.ExpertService over an ExpertHandler.
#ifndef CONCLAVE_MOE_TRANSPORT_GRPC_EXPERT_GRPC_SERVICE_H_
#define CONCLAVE_MOE_TRANSPORT_GRPC_EXPERT_GRPC_SERVICE_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "moe/transport/data_plane.h"
#include "moe/transport/expert_handler.h"
#include "moe/transport/peer_gate.h"

namespace grpc {
class Service;
}

namespace conclave {

// Thread-safe. Each stream has a thread of the server, which runs that stream's calls one after the other.
//
// What comes is checked before it is used. A router that sends what makes no sense is refused, counted, logged by name,
// and after PeerGate::kOffencesMax such offences its streams are ended and refused for a while. A message above
// kExpertMessageBytesMax is refused by gRPC itself, which ends the stream with RESOURCE_EXHAUSTED.
class ExpertGrpcService {
 public:
  // `gate` is shared with what else the shard listens on, and outlives the service; null: one of its own.
  static std::unique_ptr<ExpertGrpcService> Create(PeerGate* gate = nullptr);
  virtual ~ExpertGrpcService() = default;

  // To be registered with a server whose message limit is kExpertMessageBytesMax. Owned by this object, which must
  // outlive the server.
  virtual grpc::Service* service() = 0;
  // From now on calls go to `handler`, which must outlive the server. Until then all are refused with UNAVAILABLE and
  // what SetNotReady said last, such as "loading: 12 of 64 experts".
  virtual void SetHandler(ExpertHandler* handler) = 0;
  virtual void SetNotReady(absl::string_view why) = 0;
  // Routers that ask for a faster way than Exchange are sent to `data_plane`, which must outlive the server; without
  // one they are told that there is none. Called before SetHandler.
  virtual void SetDataPlane(DataPlane* data_plane) = 0;
  // The same of those that ask for NCCL.
  virtual void SetNcclDataPlane(DataPlane* data_plane) = 0;
  // Refuses new streams, lets calls that run finish and be answered, then ends all streams. Returns when the last has
  // gone, or at `deadline`.
  virtual void Drain(absl::Time deadline) = 0;
};

// A server for one handler alone, for shards inside a process that has no other use for a server, and for tests.
class GrpcExpertServer {
 public:
  // Listens on host:port; port 0 picks a free one. Both live until the object goes. UNAVAILABLE: cannot listen there.
  // `data_plane`, `gate` and `nccl`, the data plane of those that ask for NCCL, may be null.
  static absl::StatusOr<std::unique_ptr<GrpcExpertServer>> Start(const std::string& address, ExpertHandler& handler,
                                                                 DataPlane* data_plane = nullptr,
                                                                 PeerGate* gate = nullptr, DataPlane* nccl = nullptr);
  // Cuts off what still runs, as a killed process would.
  virtual ~GrpcExpertServer() = default;
  // host:port as bound.
  virtual const std::string& address() const = 0;
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_TRANSPORT_GRPC_EXPERT_GRPC_SERVICE_H_
