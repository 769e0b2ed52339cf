// The shard's end of the UCX transport: admits routers that the control channel sent, and runs their calls.
#ifndef CONCLAVE_MOE_TRANSPORT_UCX_UCX_EXPERT_SERVER_H_
#define CONCLAVE_MOE_TRANSPORT_UCX_UCX_EXPERT_SERVER_H_

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "moe/base/clock.h"
#include "moe/tensor/buffer.h"
#include "moe/transport/data_plane.h"
#include "moe/transport/expert_handler.h"
#include "moe/transport/peer_gate.h"
#include "moe/transport/ucx/ucx_worker.h"

namespace conclave {

struct UcxExpertServerOptions {
  // Where routers connect: a numeric host:port, port 0 picks one. On a loopback address nothing listens elsewhere; on
  // any other, UCX also opens data sockets on ports of its own choice on the machine's network devices.
  std::string address = "127.0.0.1:0";
  PeerGate* gate = nullptr;      // shared with what else the shard listens on, and outlives the server; null: its own
  Clock* clock = Clock::Real();  // of tokens, and of its own gate
  // Where rows arrive and results lie until they are sent; null: anywhere. Pinned memory, where the handler computes on
  // a device: copies from and to any other take many times as long. Asked by the server's thread.
  HostMemory memory;
  // Where worker.device_memory says so, rows come from device to device, and results go back so: gives memory of the
  // device that other processes can map, and makes the device the calling thread's. Asked by the server's thread.
  std::function<std::shared_ptr<void>(int64_t bytes)> device_memory;
  std::function<void()> make_current;
  UcxWorkerOptions worker;       // loopback_only is set from the address
};

// Device memory that a server may take for one router whose calls have rows and results of so many bytes at most.
int64_t UcxDeviceBytesMax(int64_t rows_bytes, int64_t results_bytes);

// One thread progresses UCX and runs calls, one after the other, in the order of their arrival: a shard's experts are
// computed one call at a time anyway, and a hand-off would cost more than a small message.
//
// What comes is checked before it is used. A router that sends what makes no sense is cut off, counted, logged by name,
// and after PeerGate::kOffencesMax such offences refused for a while. UCX itself trusts the network that it listens on:
// keep that network closed to strangers.
class UcxExpertServer : public DataPlane {
 public:
  // UNAVAILABLE: cannot listen there. INVALID_ARGUMENT: not a numeric address. INTERNAL: UCX does not work here.
  static absl::StatusOr<std::unique_ptr<UcxExpertServer>> Start(const UcxExpertServerOptions& options);
  // Cuts off what still runs, as a killed process would, after the handler has returned.
  ~UcxExpertServer() override = default;

  // host:port as bound.
  virtual const std::string& address() const = 0;
  // From now on routers are let in, and calls go to `handler`, which must outlive the server. Called once.
  virtual void SetHandler(ExpertHandler* handler) = 0;
  // Refuses new connections and calls, finishes and answers what has come, then cuts connections. Returns when the last
  // has gone, or at `deadline`.
  virtual void Drain(absl::Time deadline) = 0;
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_TRANSPORT_UCX_UCX_EXPERT_SERVER_H_
