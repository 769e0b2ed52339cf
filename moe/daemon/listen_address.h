// host:port texts, and why one of them could not be listened on.
#ifndef CONCLAVE_MOE_DAEMON_LISTEN_ADDRESS_H_
#define CONCLAVE_MOE_DAEMON_LISTEN_ADDRESS_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace conclave {

// An address in its two parts.
struct HostPort {
  std::string host;  // without brackets
  int port = 0;
};

// "127.0.0.1:8000", "[::1]:0", "example.org:443". INVALID_ARGUMENT quotes the text: no port, a port beyond 65535, an
// empty host, characters that no host has.
absl::StatusOr<HostPort> ParseHostPort(absl::string_view address);
// The reverse; brackets around an IPv6 host.
std::string JoinHostPort(absl::string_view host, int port);

// To be called after a server failed to listen on `address`: tries it with a plain socket and says what is wrong,
// UNAVAILABLE "port 8000 of 127.0.0.1 is in use; choose another with --grpc-address".
absl::Status ExplainListenFailure(const std::string& address, absl::string_view flag);

}  // namespace conclave

#endif  // CONCLAVE_MOE_DAEMON_LISTEN_ADDRESS_H_
