// The server's side of TLS from files. Private to the server: it brings Asio with it.
#ifndef CONCLAVE_GATEWAY_HTTP_TLS_CONTEXT_H_
#define CONCLAVE_GATEWAY_HTTP_TLS_CONTEXT_H_

#include <boost/asio/ssl/context.hpp>
#include <memory>

#include "absl/status/statusor.h"
#include "gateway/http/http_options.h"

namespace conclave {

// TLS 1.2 and later with options.tls_cert and options.tls_key; with options.tls_client_ca clients must show a
// certificate that it has signed. Null: no certificate is given, so plain HTTP. INVALID_ARGUMENT names the flag whose
// file cannot be used, and says why.
absl::StatusOr<std::unique_ptr<boost::asio::ssl::context>> CreateTlsContext(const HttpOptions& options);

}  // namespace conclave

#endif  // CONCLAVE_GATEWAY_HTTP_TLS_CONTEXT_H_
