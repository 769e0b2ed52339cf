#include "cli/gateway_access.h"

#include <grpcpp/grpcpp.h>

#include "absl/strings/str_cat.h"
#include "moe/base/status_macros.h"

namespace conclave {
namespace {

constexpr int kMessageBytesMax = 64 << 20;

}  // namespace

void GatewayAccess::Declare(CommandFlags& flags) {
  flags.Add("api-key", &api_key, "KEY", "the key to show to the gateway; better given as CONCLAVE_API_KEY");
  flags.Add("tls-ca", &tls.ca, "FILE", "roots that the gateway's certificate must be of; absent: plaintext");
  flags.Add("tls-client-cert", &tls.certificate, "FILE", "certificate to show to the gateway");
  flags.Add("tls-client-key", &tls.key, "FILE", "private key of that certificate");
}

absl::StatusOr<std::shared_ptr<grpc::Channel>> GatewayAccess::Open(const std::string& address) const {
  ASSIGN_OR_RETURN(const auto credentials, NewChannelCredentials(tls));
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(kMessageBytesMax);
  return grpc::CreateCustomChannel(address, credentials, arguments);
}

void GatewayAccess::Authorize(grpc::ClientContext& context) const {
  if (!api_key.empty()) context.AddMetadata("authorization", absl::StrCat("Bearer ", api_key));
}

}  // namespace conclave
