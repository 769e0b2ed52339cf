// How a verb gets in at a gateway: TLS, and the API key to show.
#ifndef CONCLAVE_CLI_GATEWAY_ACCESS_H_
#define CONCLAVE_CLI_GATEWAY_ACCESS_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "cli/command.h"
#include "moe/daemon/tls.h"

namespace grpc {
class Channel;
class ClientContext;
}  // namespace grpc

namespace conclave {

// The flags of every verb that talks to a gateway.
struct GatewayAccess {
  TlsClientOptions tls;
  std::string api_key;

  void Declare(CommandFlags& flags);
  // A channel to `address`, host:port. INVALID_ARGUMENT names the file that is missing or wrong.
  absl::StatusOr<std::shared_ptr<grpc::Channel>> Open(const std::string& address) const;
  // To be called for each call on that channel: shows the key.
  void Authorize(grpc::ClientContext& context) const;
};

}  // namespace conclave

#endif  // CONCLAVE_CLI_GATEWAY_ACCESS_H_
