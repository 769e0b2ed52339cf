// The shard's end of the NCCL transport: admits routers that the control channel sent, and runs their calls on rows
// that arrive in the device's memory.
#ifndef CONCLAVE_MOE_TRANSPORT_NCCL_NCCL_EXPERT_SERVER_H_
#define CONCLAVE_MOE_TRANSPORT_NCCL_NCCL_EXPERT_SERVER_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "moe/base/clock.h"
#include "moe/transport/data_plane.h"
#include "moe/transport/expert_handler.h"
#include "moe/transport/nccl/nccl_api.h"
#include "moe/transport/nccl/nccl_transport.h"
#include "moe/transport/peer_gate.h"

namespace conclave {

struct NcclExpertServerOptions {
  const NcclApi* api = nullptr;         // required
  StreamFactory new_stream;             // required; called by the server's thread
  std::string gpu;                      // the device's own name, AcceleratorInfo::uuid
  std::string address = "127.0.0.1:0";  // where routers connect with call headers: numeric, port 0 picks one
  int routers_max = 256;  // that may be connected at a time: for so many there is memory
  PeerGate* gate = nullptr;      // shared with what else the shard listens on, and outlives the server; null: its own
  Clock* clock = Clock::Real();  // of tokens, and of its own gate
  absl::Duration join_timeout = absl::Seconds(15);  // from a router's greeting to its first call being possible
  absl::Duration move_timeout = absl::Seconds(2);   // of rows that both ends have put on their way
};

// One thread looks after all routers and runs their calls, one after the other, in the order in which their rows are
// complete. A router whose rows do not arrive keeps nobody else waiting, and is cut off after move_timeout.
//
// What comes is checked before it is used, but for the rows themselves: they stay on the device, and one that is not
// finite spoils its own results alone. NCCL itself trusts the network that it uses: keep that network closed to
// strangers.
class NcclExpertServer : public DataPlane {
 public:
  // UNAVAILABLE: cannot listen there. INVALID_ARGUMENT: not a numeric address.
  static absl::StatusOr<std::unique_ptr<NcclExpertServer>> Start(const NcclExpertServerOptions& options);
  // Cuts off what still runs, as a killed process would, after the handler has returned.
  ~NcclExpertServer() override = default;

  // host:port as bound.
  virtual const std::string& address() const = 0;
  // From now on routers are let in, and calls go to `handler`, which must outlive the server. Called once.
  virtual void SetHandler(ExpertHandler* handler) = 0;
  // Refuses new connections and calls, finishes and answers what has come, then cuts connections. Returns when the last
  // has gone, or at `deadline`.
  virtual void Drain(absl::Time deadline) = 0;
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_TRANSPORT_NCCL_NCCL_EXPERT_SERVER_H_
