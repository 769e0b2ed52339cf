#include "gateway/http/tls_context.h"

#include <utility>

#include "absl/memory/memory.h"
#include "moe/base/status_macros.h"
#include "moe/daemon/asio_tls.h"

namespace conclave {
namespace {

namespace ssl = boost::asio::ssl;
using boost::system::error_code;

absl::StatusOr<std::shared_ptr<ssl::context>> NewContext(const HttpOptions& options) {
  auto context = std::make_shared<ssl::context>(ssl::context::tls_server);
  RETURN_IF_ERROR(RefuseOldTls(*context));
  error_code error;
  context->use_certificate_chain_file(options.tls_cert, error);
  RETURN_IF_ERROR(TlsFileStatus("http-tls-cert", options.tls_cert, error));
  context->use_private_key_file(options.tls_key, ssl::context::pem, error);
  RETURN_IF_ERROR(TlsFileStatus("http-tls-key", options.tls_key, error));
  if (!options.tls_client_ca.empty()) {
    context->load_verify_file(options.tls_client_ca, error);
    RETURN_IF_ERROR(TlsFileStatus("http-tls-client-ca", options.tls_client_ca, error));
    context->set_verify_mode(ssl::verify_peer | ssl::verify_fail_if_no_peer_cert, error);
    RETURN_IF_ERROR(TlsStatus(error));
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
