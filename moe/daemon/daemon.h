// What every service process shares: signals, the gRPC server with health and reflection, the metrics port, the
// address file, and a graceful end.
#ifndef CONCLAVE_MOE_DAEMON_DAEMON_H_
#define CONCLAVE_MOE_DAEMON_DAEMON_H_

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "moe/daemon/flags.h"
#include "moe/daemon/tls.h"
#include "moe/metrics/metrics.h"

namespace grpc {
class Service;
}

namespace conclave {

// What the services have in common on their command lines.
struct DaemonOptions {
  std::string name;                             // "router", "expert-2": stands in logs and in the address file
  std::string grpc_address = "127.0.0.1:0";     // host:port, port 0 picks a free one
  std::string metrics_address = "127.0.0.1:0";  // host:port, the host as an IP address; empty: no metrics port
  std::string health_address;  // host:port of one more gRPC server, in plaintext, that tells health alone; empty: none
  std::string http_address;                     // where this process serves HTTP, for the address file; no flag
  std::string address_file;  // written atomically when listening: {"name","pid","grpc","http","metrics"}
  absl::Duration drain_timeout = absl::Seconds(20);
  std::string log_level = "info";    // debug, info, warning or error
  std::string log_format = "text";   // text or json
  TlsServerOptions tls;              // of the gRPC port
  int message_bytes_max = 64 << 20;  // a larger gRPC message is refused with RESOURCE_EXHAUSTED; no flag
  void AddTo(Flags& flags);          // --name, --grpc-address, --metrics-address, --address-file, --tls-cert, …
};

// Life: Create (binds both ports; health NOT_SERVING) → SetServing(true) when weights are usable → Run → exit code.
// A SIGTERM before the first SetServing(true) ends the process at once with exit code 0: nothing is in flight yet.
class Daemon {
 public:
  // Blocks SIGTERM, SIGINT and SIGHUP for the process: call before other threads start. `services` must outlive it.
  // Also names this process's log lines, sets the log level, and turns gRPC's own log lines into debug lines.
  // INVALID_ARGUMENT names the flag, and refuses plaintext on addresses that other machines may reach, the metrics
  // port's included, unless that is allowed. UNAVAILABLE names a port in use.
  static absl::StatusOr<std::unique_ptr<Daemon>> Create(const DaemonOptions& options,
                                                        const std::vector<grpc::Service*>& services, Metrics& metrics);
  virtual ~Daemon() = default;
  virtual void SetServing(bool serving) = 0;  // gRPC health of "" and of every service
  virtual std::string grpc_address() const = 0;
  virtual std::string metrics_address() const = 0;  // empty: no metrics port
  virtual std::string health_address() const = 0;   // empty: no health port
  // Waits for SIGTERM or SIGINT (or RequestStop), turns health to NOT_SERVING, calls `drain` with a deadline, stops
  // the servers. `drain` returns when no call worth waiting for is open; what is open then is cancelled. OK: a clean
  // end; DEADLINE_EXCEEDED: `drain` took all its time. A second signal ends the process at once.
  virtual absl::Status Run(std::function<void(absl::Time deadline)> drain) = 0;
  virtual void RequestStop() = 0;
  // What SIGHUP does: by custom, opening log files anew. Until it is set the signal does nothing. Runs on the thread of
  // signals.
  virtual void OnHangup(std::function<void()> action) = 0;
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_DAEMON_DAEMON_H_
