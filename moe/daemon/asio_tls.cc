#include "moe/daemon/asio_tls.h"

#include "absl/strings/str_cat.h"

namespace conclave {

namespace ssl = boost::asio::ssl;
using boost::system::error_code;

absl::Status RefuseOldTls(ssl::context& context) {
  error_code error;
  context.set_options(ssl::context::default_workarounds | ssl::context::no_sslv2 | ssl::context::no_sslv3 |
                          ssl::context::no_tlsv1 | ssl::context::no_tlsv1_1 | ssl::context::no_compression,
                      error);
  return TlsStatus(error);
}

absl::Status TlsFileStatus(absl::string_view flag, const std::string& path, const error_code& error) {
  if (!error) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("--", flag, ": cannot use ", path, ": ", error.message()));
}

absl::Status TlsStatus(const error_code& error) {
  if (!error) return absl::OkStatus();
  return absl::InternalError(absl::StrCat("TLS cannot be set up: ", error.message()));
}

}  // namespace conclave
