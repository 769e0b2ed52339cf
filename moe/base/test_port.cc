#include "moe/base/test_port.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "absl/strings/str_cat.h"
#include "moe/base/check.h"

namespace conclave {

std::string NewTestAddress() {
  // Never closed: the port is held for the rest of the process, and no longer, since a child that is executed gets
  // none.
  const int holder = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  CONCLAVE_CHECK(holder >= 0);
  const int on = 1;
  CONCLAVE_CHECK(::setsockopt(holder, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) == 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(address);
  CONCLAVE_CHECK(::bind(holder, reinterpret_cast<const sockaddr*>(&address), size) == 0);
  CONCLAVE_CHECK(::getsockname(holder, reinterpret_cast<sockaddr*>(&address), &size) == 0);
  return absl::StrCat("127.0.0.1:", ntohs(address.sin_port));
}

}  // namespace conclave
