// Where an HTTP server is, and how its port is spoken to.
#ifndef CONCLAVE_CLI_BENCH_HTTP_ENDPOINT_H_
#define CONCLAVE_CLI_BENCH_HTTP_ENDPOINT_H_

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ssl/context.hpp>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "cli/cluster_access.h"

namespace conclave {

// A server that has been looked up.
struct HttpEndpoint {
  std::string host_header;  // "example.org:8000"
  std::string server_name;  // whom its certificate must name
  boost::asio::ip::tcp::resolver::results_type addresses;
  std::unique_ptr<boost::asio::ssl::context> tls;  // null: plaintext
};

// Looks `address` up: HOST:PORT, http://HOST:PORT or https://HOST:PORT. It is spoken to over TLS where it begins with
// https or `access` has --tls-ca; without that file the system's roots count. INVALID_ARGUMENT: a malformed address or
// a wrong file. UNAVAILABLE: the host is unknown.
absl::StatusOr<std::unique_ptr<HttpEndpoint>> FindHttpEndpoint(const std::string& address, const ClusterAccess& access,
                                                               boost::asio::io_context& context);

}  // namespace conclave

#endif  // CONCLAVE_CLI_BENCH_HTTP_ENDPOINT_H_
