#include "moe/metrics/wake_listener.h"

#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

namespace conclave {

void WakeListener(const std::string& address) {
  const size_t colon = address.rfind(':');
  if (colon == std::string::npos) return;
  std::string host = address.substr(0, colon);
  if (host.size() > 2 && host.front() == '[') host = host.substr(1, host.size() - 2);
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  if (getaddrinfo(host.c_str(), address.c_str() + colon + 1, &hints, &found) != 0) return;
  const int socket = ::socket(found->ai_family, found->ai_socktype | SOCK_NONBLOCK, found->ai_protocol);
  if (socket >= 0) {
    (void)::connect(socket, found->ai_addr, found->ai_addrlen);
    ::close(socket);
  }
  freeaddrinfo(found);
}

}  // namespace conclave
