#include "cli/cluster_access.h"

#include <grpcpp/grpcpp.h>

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "moe/base/status_macros.h"

namespace conclave {
namespace {

constexpr int kMessageBytesMax = 64 << 20;
// A service that comes back is found soon.
constexpr int kReconnectMsMin = 100, kReconnectMsMax = 2000;

}  // namespace

void ClusterAccess::Declare(CommandFlags& flags, absl::string_view whom, absl::string_view former) {
  flags.Add("address", &address, "HOST:PORT", whom);
  if (!former.empty()) flags.Add(former, &address, "HOST:PORT", whom).hidden = true;
  flags.Add("run-dir", &run_directory, "DIR",
            "the cluster that `conclave up --run-dir DIR` runs, in place of --address");
  flags.Add("api-key", &api_key, "KEY", "the key to show to the gateway; better given as CONCLAVE_API_KEY");
  flags.Add("tls-ca", &tls.ca, "FILE", "roots that the server's certificate must be of; absent: plaintext");
  flags.Add("tls-client-cert", &tls.certificate, "FILE", "certificate to show to the server");
  flags.Add("tls-client-key", &tls.key, "FILE", "private key of that certificate");
  flags.Add("tls-server-name", &tls.server_name, "NAME",
            "whom the server's certificate must name, where that is not the host of the address");
}

absl::Status ClusterAccess::Validate() const {
  if (address.empty() == run_directory.empty()) {
    return UsageError("say which cluster, once: --address HOST:PORT, or --run-dir DIR of `conclave up`");
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<ClusterProcess>> ClusterAccess::Processes() const {
  absl::StatusOr<std::vector<ClusterProcess>> processes = ReadClusterFile(ClusterFilePath(run_directory));
  if (processes.ok()) return processes;
  return absl::NotFoundError(
      absl::StrCat("no cluster runs in --run-dir ", run_directory, ": ", std::string(processes.status().message())));
}

absl::StatusOr<std::string> ClusterAccess::AddressOf(const std::string& role) const {
  if (!address.empty()) return address;
  ASSIGN_OR_RETURN(const std::vector<ClusterProcess> processes, Processes());
  return AddressOfRole(processes, role);
}

absl::StatusOr<std::shared_ptr<grpc::Channel>> ClusterAccess::Open(const std::string& target) const {
  if (absl::StartsWith(target, "http://") || absl::StartsWith(target, "https://")) {
    return UsageError(absl::StrCat(
        "--address takes HOST:PORT for gRPC, which `conclave up` prints as the gateway's, not ", target));
  }
  ASSIGN_OR_RETURN(const auto credentials, NewChannelCredentials(tls));
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(kMessageBytesMax);
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, kReconnectMsMin);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, kReconnectMsMax);
  // Credentials follow their files for as long as they are held: here for as long as the channel is.
  using Pair = std::pair<std::shared_ptr<grpc::ChannelCredentials>, std::shared_ptr<grpc::Channel>>;
  const auto both = std::make_shared<Pair>(credentials, grpc::CreateCustomChannel(target, credentials, arguments));
  return std::shared_ptr<grpc::Channel>(both, both->second.get());
}

void ClusterAccess::Authorize(grpc::ClientContext& context) const {
  if (!api_key.empty()) context.AddMetadata("authorization", absl::StrCat("Bearer ", api_key));
}

absl::Status StatusOfCall(const grpc::Status& status, absl::string_view who, const std::string& address) {
  if (status.ok()) return absl::OkStatus();
  const auto code = static_cast<absl::StatusCode>(status.error_code());
  const std::string& message = status.error_message();
  if (code == absl::StatusCode::kUnimplemented) {
    return absl::UnavailableError(absl::StrCat("what answers at ", address, " is no ", who, " of this version"));
  }
  if (absl::StrContains(message, "Trying to connect an http1.x server")) {
    return absl::UnavailableError(absl::StrCat(address, " speaks HTTP; give the ", who, "'s address for gRPC"));
  }
  // What gRPC itself says where nobody listens; an error that came from the other side reads otherwise.
  if (code == absl::StatusCode::kUnavailable &&
      (absl::StartsWith(message, "failed to connect") || absl::StartsWith(message, "DNS resolution failed") ||
       absl::StartsWith(message, "connections to all backends") ||
       message == "Broken pipe" || message == "Connection reset by peer")) {
    // So it looks where one side speaks TLS and the other does not, or shows no certificate.
    const bool closed = absl::StrContains(message, "Socket closed");
    return absl::UnavailableError(
        absl::StrCat("no ", who, " answers at ", address, "; is `conclave up` running there",
                     closed ? ", and does it ask for --tls-ca or --tls-client-cert" : "", "? (", message, ")"));
  }
  return absl::Status(code, message);
}

}  // namespace conclave
