// The client's side of gRPC health checking (grpc.health.v1): is a process usable, and waiting until it is.
#ifndef CONCLAVE_MOE_DAEMON_HEALTH_CLIENT_H_
#define CONCLAVE_MOE_DAEMON_HEALTH_CLIENT_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace grpc {
class Channel;
}

namespace conclave {

// Asks once for `service` ("" is the whole server). OK: SERVING. UNAVAILABLE says why not: not listening, loading
// (NOT_SERVING), another kind of server. Thread-safe; blocks for at most `timeout`.
absl::Status CheckServing(const std::shared_ptr<grpc::Channel>& channel, absl::string_view service,
                          absl::Duration timeout);

// Waits until every one of `addresses` (host:port) serves `service`, with a log line every few seconds that says who
// is missing and why. DEADLINE_EXCEEDED names the first that is missing. Blocks.
absl::Status WaitUntilServing(const std::vector<std::string>& addresses, absl::string_view service,
                              absl::Time deadline);

}  // namespace conclave

#endif  // CONCLAVE_MOE_DAEMON_HEALTH_CLIENT_H_
