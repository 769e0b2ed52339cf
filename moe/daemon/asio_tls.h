// What TLS contexts of Boost.Asio have in common, on a server's and on a client's side.
#ifndef CONCLAVE_MOE_DAEMON_ASIO_TLS_H_
#define CONCLAVE_MOE_DAEMON_ASIO_TLS_H_

#include <boost/asio/ssl/context.hpp>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace conclave {

// Everything before TLS 1.2 is refused, and compression (CRIME). INTERNAL where OpenSSL cannot.
absl::Status RefuseOldTls(boost::asio::ssl::context& context);

// What came of taking the file `path` of --`flag`: OK, or INVALID_ARGUMENT that names both.
absl::Status TlsFileStatus(absl::string_view flag, const std::string& path, const boost::system::error_code& error);

// What came of any other setting: OK or INTERNAL.
absl::Status TlsStatus(const boost::system::error_code& error);

}  // namespace conclave

#endif  // CONCLAVE_MOE_DAEMON_ASIO_TLS_H_
