#include "moe/transport/grpc/peer_host.h"

#include "absl/strings/str_replace.h"
#include "absl/strings/strip.h"

namespace conclave {

std::string HostOfPeer(absl::string_view peer) {
  // gRPC spells an IPv6 host with its brackets, escaped or not.
  const std::string plain = absl::StrReplaceAll(peer, {{"%5B", "["}, {"%5D", "]"}, {"%5b", "["}, {"%5d", "]"}});
  absl::string_view host = plain;
  if (!absl::ConsumePrefix(&host, "ipv4:") && !absl::ConsumePrefix(&host, "ipv6:")) return plain;
  return std::string(host.substr(0, host.rfind(':')));
}

}  // namespace conclave
