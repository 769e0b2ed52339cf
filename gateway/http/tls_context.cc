#include "gateway/http/tls_context.h"

#include <string>
#include <utility>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "moe/base/status_macros.h"

namespace conclave {
namespace {

namespace ssl = boost::asio::ssl;
using boost::system::error_code;

absl::Status Explain(absl::string_view flag, const std::string& path, const error_code& error) {
  if (!error) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("--", flag, ": cannot use ", path, ": ", error.message()));
}

absl::StatusOr<std::shared_ptr<ssl::context>> NewContext(const HttpOptions& options) {
  auto context = std::make_shared<ssl::context>(ssl::context::tls_server);
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

}  // namespace

TlsContexts::TlsContexts(const HttpOptions& options, Metrics* metrics)
    : options_(options), watch_({"http", options.tls_cert, {options.tls_key, options.tls_client_ca}}, metrics) {}

absl::StatusOr<std::unique_ptr<TlsContexts>> TlsContexts::Create(const HttpOptions& options, Metrics* metrics) {
  if (options.tls_cert.empty()) return std::unique_ptr<TlsContexts>();
  auto contexts = absl::WrapUnique(new TlsContexts(options, metrics));
  RETURN_IF_ERROR(contexts->Take());
  return contexts;
}

absl::Status TlsContexts::Take() {
  ASSIGN_OR_RETURN(std::shared_ptr<ssl::context> context, NewContext(options_));
  absl::MutexLock lock(&mutex_);
  context_ = std::move(context);
  return absl::OkStatus();
}

void TlsContexts::Follow() {
  watch_.Start([this] { return Take(); });
}

}  // namespace conclave
