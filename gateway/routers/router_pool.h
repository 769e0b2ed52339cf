// Several attention services behind one face. Requests go where their prompt's prefix is known, within bounds of load;
// services may come and go; what one service refuses another may take; and the stream of a service that dies or hangs
// goes on at another one, by replaying the prompt and the ids that have come: the same ids as if nothing had happened.
#ifndef CONCLAVE_GATEWAY_ROUTERS_ROUTER_POOL_H_
#define CONCLAVE_GATEWAY_ROUTERS_ROUTER_POOL_H_

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "conclave/v1/control.pb.h"
#include "gateway/router_client.h"
#include "gateway/routers/decode_backend.h"
#include "moe/metrics/metrics.h"
#include "moe/tracing/tracer.h"

namespace conclave {

// How patient a pool is.
struct RouterPoolOptions {
  std::vector<std::string> addresses;  // host:port each, or where to find them (PeerList)
  absl::Duration discovery_interval = absl::Seconds(2);
  absl::Duration poll_interval = absl::Milliseconds(200);
  // A service that answers no question about its status for this long counts as hung; more where its answers usually
  // take more than a fiftieth of it.
  absl::Duration hang_timeout = absl::Seconds(2);
  // A stream without a token for this long, or a hundred times its usual time between tokens, is taken elsewhere.
  absl::Duration stall_timeout = absl::Seconds(20);
  // How long a stream that has begun waits for a service that takes it.
  absl::Duration resume_wait = absl::Seconds(60);
  std::shared_ptr<grpc::ChannelCredentials> credentials = nullptr;  // null: plaintext
  Tracer* tracer = nullptr;  // told of every attempt at a service; must outlive the pool; null: nobody
};

// Thread-safe. Streams and the DecodeCalls of them must have been given up before it goes.
class RouterPool : public DecodeBackend {
 public:
  // Begins to look for the services at once.
  static std::unique_ptr<RouterPool> Create(const RouterPoolOptions& options, Metrics& metrics);

  // Blocks until one service serves, and says what it is: from then on, services that serve another model or compute
  // in another way are not used. DEADLINE_EXCEEDED says what is missing.
  virtual absl::StatusOr<v1::GetStatusResponse> WaitUntilServing(absl::Time deadline) = 0;
  // Whether any service can be used now.
  virtual bool serving() const = 0;
  // host:port of the services that there are now, usable or not.
  virtual std::vector<std::string> addresses() const = 0;
  // From now on an answer that waits for a service ends where none is usable: this gateway is stopping.
  virtual void StopWaiting() = 0;
  // `on_change` is told whether any service can be used, soon and whenever that changes, by a thread of the pool's; it
  // must not call back. Null: nobody is told any more, once this returns.
  virtual void WatchServing(std::function<void(bool serving)> on_change) = 0;
};

}  // namespace conclave

#endif  // CONCLAVE_GATEWAY_ROUTERS_ROUTER_POOL_H_
