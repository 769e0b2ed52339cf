// TLS on ports and channels: certificates from files, which are followed as they change, without a restart.
#ifndef CONCLAVE_MOE_DAEMON_TLS_H_
#define CONCLAVE_MOE_DAEMON_TLS_H_

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "moe/daemon/flags.h"
#include "moe/metrics/metrics.h"

namespace grpc {
class ChannelCredentials;
class ServerCredentials;
}  // namespace grpc

namespace conclave {

// How a process's own port is protected. Paths of PEM files.
struct TlsServerOptions {
  std::string certificate;      // with the chain up to the root; empty: plaintext
  std::string key;              // private, of the certificate
  std::string client_ca;        // roots; where given, clients must show a certificate of theirs (mTLS)
  bool allow_insecure = false;  // plaintext beyond loopback, where something else protects the traffic
  void AddTo(Flags& flags);     // --tls-cert, --tls-key, --tls-client-ca, --allow-insecure
  bool enabled() const { return !certificate.empty(); }
};

// How a process talks to others.
struct TlsClientOptions {
  std::string ca;           // roots that servers must be of; empty: plaintext
  std::string certificate;  // shown to servers that ask for one; with `key`, or neither
  std::string key;
  std::string server_name = "";  // that their certificates must name; empty: the host by which each is called
  void AddTo(Flags& flags);      // --tls-ca, --tls-client-cert, --tls-client-key, --tls-server-name
  bool enabled() const { return !ca.empty(); }
};

// Checks that all files are there, hold what they should, and that keys belong to their certificates. INVALID_ARGUMENT
// names the flag and the file.
absl::Status CheckTls(const TlsServerOptions& options);
absl::Status CheckTls(const TlsClientOptions& options);

// Credentials for a gRPC server or channel; plaintext where the options are empty. A server's name or address must be
// in its certificate, or the name that the options give for all. As long as anybody holds the credentials, files that
// change are checked and taken within seconds, for new connections; files that do not pass the check leave in use what
// was there, with an error in the log and, where `metrics` is not null, in conclave_tls_certificate_reloads_total.
// metrics must outlive the credentials. The errors of CheckTls.
absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> NewServerCredentials(const TlsServerOptions& options,
                                                                              Metrics* metrics = nullptr);
absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> NewChannelCredentials(const TlsClientOptions& options,
                                                                                Metrics* metrics = nullptr);

// Refuses plaintext on an address that other machines may reach. `address`: host:port, of --`flag`. INVALID_ARGUMENT
// says what to do.
absl::Status CheckPlaintextAddress(absl::string_view flag, absl::string_view address, bool allow_insecure);

}  // namespace conclave

#endif  // CONCLAVE_MOE_DAEMON_TLS_H_
