#include "cli/bench/http_endpoint.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "cli/command.h"
#include "moe/base/status_macros.h"
#include "moe/daemon/asio_tls.h"
#include "moe/daemon/listen_address.h"
#include "moe/daemon/tls.h"

namespace conclave {
namespace {

namespace ssl = boost::asio::ssl;
using boost::system::error_code;

absl::StatusOr<std::unique_ptr<ssl::context>> NewTlsContext(const TlsClientOptions& options) {
  RETURN_IF_ERROR(CheckTls(options));
  auto context = std::make_unique<ssl::context>(ssl::context::tls_client);
  RETURN_IF_ERROR(RefuseOldTls(*context));
  error_code error;
  context->set_verify_mode(ssl::verify_peer, error);
  RETURN_IF_ERROR(TlsStatus(error));
  if (options.ca.empty()) {
    context->set_default_verify_paths(error);
    RETURN_IF_ERROR(TlsStatus(error));
  } else {
    context->load_verify_file(options.ca, error);
    RETURN_IF_ERROR(TlsFileStatus("tls-ca", options.ca, error));
  }
  if (options.certificate.empty()) return context;
  context->use_certificate_chain_file(options.certificate, error);
  RETURN_IF_ERROR(TlsFileStatus("tls-client-cert", options.certificate, error));
  context->use_private_key_file(options.key, ssl::context::pem, error);
  RETURN_IF_ERROR(TlsFileStatus("tls-client-key", options.key, error));
  return context;
}

}  // namespace

absl::StatusOr<std::unique_ptr<HttpEndpoint>> FindHttpEndpoint(const std::string& address, const ClusterAccess& access,
                                                               boost::asio::io_context& context) {
  absl::string_view rest = address;
  const bool secure = absl::ConsumePrefix(&rest, "https://") || access.tls.enabled();
  absl::ConsumePrefix(&rest, "http://");
  absl::ConsumeSuffix(&rest, "/");
  absl::ConsumeSuffix(&rest, "/v1");
  const absl::StatusOr<HostPort> parsed = ParseHostPort(rest);
  if (!parsed.ok()) {
    return UsageError(absl::StrCat("--address: ", std::string(parsed.status().message())));
  }
  auto endpoint = std::make_unique<HttpEndpoint>();
  endpoint->host_header = JoinHostPort(parsed->host, parsed->port);
  endpoint->server_name = access.tls.server_name.empty() ? parsed->host : access.tls.server_name;
  if (secure) {
    ASSIGN_OR_RETURN(endpoint->tls, NewTlsContext(access.tls));
  }
  error_code error;
  boost::asio::ip::tcp::resolver resolver(context);
  endpoint->addresses = resolver.resolve(parsed->host, std::to_string(parsed->port), error);
  if (error) return absl::UnavailableError(absl::StrCat("no host ", parsed->host, ": ", error.message()));
  return endpoint;
}

}  // namespace conclave
