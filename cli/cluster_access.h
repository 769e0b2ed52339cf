// Where a verb finds a running cluster and how it gets in there: addresses, TLS, and the API key to show.
#ifndef CONCLAVE_CLI_CLUSTER_ACCESS_H_
#define CONCLAVE_CLI_CLUSTER_ACCESS_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "cli/cluster_file.h"
#include "cli/command.h"
#include "moe/daemon/tls.h"

namespace grpc {
class Channel;
class ClientContext;
class Status;
}  // namespace grpc

namespace conclave {

// The flags of every verb that talks to a cluster: --address, --run-dir, --api-key, --tls-ca, --tls-client-cert,
// --tls-client-key, --tls-server-name.
struct ClusterAccess {
  std::string address;        // host:port; of several services with commas between them
  std::string run_directory;  // of `conclave up`: in the place of an address
  std::string api_key;
  TlsClientOptions tls;

  // `whom`: whose address it is, such as "the gateway's gRPC address". `former`: a name that --address had before;
  // still taken.
  void Declare(CommandFlags& flags, absl::string_view whom, absl::string_view former = "");

  // UsageError unless exactly one of --address and --run-dir is given.
  absl::Status Validate() const;
  // The processes that `conclave up` runs in --run-dir. NOT_FOUND: none does.
  absl::StatusOr<std::vector<ClusterProcess>> Processes() const;
  // --address as it is, or the gRPC address of the first process of `role` in --run-dir.
  absl::StatusOr<std::string> AddressOf(const std::string& role) const;

  // A channel to `address`, host:port. INVALID_ARGUMENT names the file that is missing or wrong.
  absl::StatusOr<std::shared_ptr<grpc::Channel>> Open(const std::string& address) const;
  // To be called for each call on that channel: shows the key.
  void Authorize(grpc::ClientContext& context) const;
};

// What a call to the service called `who` came to. Where nobody answers at `address` it says so, and what to look at.
absl::Status StatusOfCall(const grpc::Status& status, absl::string_view who, const std::string& address);

}  // namespace conclave

#endif  // CONCLAVE_CLI_CLUSTER_ACCESS_H_
