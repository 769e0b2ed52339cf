#include "gateway/http/tls_context.h"

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"

namespace conclave {
namespace {

namespace ssl = boost::asio::ssl;
using boost::system::error_code;

absl::Status Explain(absl::string_view flag, const std::string& path, const error_code& error) {
  if (!error) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("--", flag, ": cannot use ", path, ": ", error.message()));
}

}  // namespace

absl::StatusOr<std::unique_ptr<ssl::context>> CreateTlsContext(const HttpOptions& options) {
  if (options.tls_cert.empty()) return std::unique_ptr<ssl::context>();
  auto context = std::make_unique<ssl::context>(ssl::context::tls_server);
  error_code error;
  context->set_options(ssl::context::default_workarounds | ssl::context::no_sslv2 | ssl::context::no_sslv3 |
                           ssl::context::no_tlsv1 | ssl::context::no_tlsv1_1 | ssl::context::no_compression,
                       error);
  if (error) return absl::InternalError(absl::StrCat("TLS cannot be set up: ", error.message()));
  context->use_certificate_chain_file(options.tls_cert, error);
  if (error) return Explain("http-tls-cert", options.tls_cert, error);
  context->use_private_key_file(options.tls_key, ssl::context::pem, error);
  if (error) return Explain("http-tls-key", options.tls_key, error);
  if (!options.tls_client_ca.empty()) {
    context->load_verify_file(options.tls_client_ca, error);
    if (error) return Explain("http-tls-client-ca", options.tls_client_ca, error);
    context->set_verify_mode(ssl::verify_peer | ssl::verify_fail_if_no_peer_cert, error);
    if (error) return absl::InternalError(absl::StrCat("TLS cannot be set up: ", error.message()));
  }
  return context;
}

}  // namespace conclave
