// A numeric host:port as the socket calls want it.
#ifndef CONCLAVE_MOE_TRANSPORT_DATA_PLANE_SOCKET_ADDRESS_H_
#define CONCLAVE_MOE_TRANSPORT_DATA_PLANE_SOCKET_ADDRESS_H_

#include <sys/socket.h>

#include <string>

#include "absl/status/statusor.h"

namespace conclave {

class SocketAddress {
 public:
  // "127.0.0.1:7000", "[::1]:0". INVALID_ARGUMENT: a name instead of a number, no port. Nothing is looked up.
  static absl::StatusOr<SocketAddress> Parse(const std::string& address);
  // A copy of what a socket call returned.
  explicit SocketAddress(const sockaddr_storage& storage) : storage_(storage) {}

  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&storage_); }
  socklen_t length() const;
  int port() const;
  // Without the port, such as "127.0.0.1".
  std::string Host() const;
  bool IsLoopback() const;

 private:
  sockaddr_storage storage_ = {};
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_TRANSPORT_DATA_PLANE_SOCKET_ADDRESS_H_
