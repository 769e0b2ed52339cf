#include "moe/transport/data_plane/socket_address.h"

#include <arpa/inet.h>
#include <netinet/in.h>

#include <cstring>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace conclave {
namespace {

const sockaddr_in& V4(const sockaddr_storage& storage) { return reinterpret_cast<const sockaddr_in&>(storage); }
const sockaddr_in6& V6(const sockaddr_storage& storage) { return reinterpret_cast<const sockaddr_in6&>(storage); }

}  // namespace

absl::StatusOr<SocketAddress> SocketAddress::Parse(const std::string& address) {
  const absl::Status bad = absl::InvalidArgumentError(
      absl::StrCat("\"", address.substr(0, 100), "\" is no numeric address with a port, such as 127.0.0.1:7000"));
  const size_t colon = address.rfind(':');
  int port = 0;
  if (colon == std::string::npos || !absl::SimpleAtoi(address.substr(colon + 1), &port) || port < 0 || port > 65535) {
    return bad;
  }
  std::string host = address.substr(0, colon);
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') host = host.substr(1, host.size() - 2);
  sockaddr_storage storage = {};
  auto& v4 = reinterpret_cast<sockaddr_in&>(storage);
  auto& v6 = reinterpret_cast<sockaddr_in6&>(storage);
  if (inet_pton(AF_INET, host.c_str(), &v4.sin_addr) == 1) {
    v4.sin_family = AF_INET;
    v4.sin_port = htons(static_cast<uint16_t>(port));
  } else if (inet_pton(AF_INET6, host.c_str(), &v6.sin6_addr) == 1) {
    v6.sin6_family = AF_INET6;
    v6.sin6_port = htons(static_cast<uint16_t>(port));
  } else {
    return bad;
  }
  return SocketAddress(storage);
}

socklen_t SocketAddress::length() const {
  return storage_.ss_family == AF_INET ? sizeof(sockaddr_in) : sizeof(sockaddr_in6);
}

int SocketAddress::port() const {
  return ntohs(storage_.ss_family == AF_INET ? V4(storage_).sin_port : V6(storage_).sin6_port);
}

std::string SocketAddress::Host() const {
  char text[INET6_ADDRSTRLEN] = "";
  const void* address = storage_.ss_family == AF_INET ? static_cast<const void*>(&V4(storage_).sin_addr)
                                                      : static_cast<const void*>(&V6(storage_).sin6_addr);
  inet_ntop(storage_.ss_family, address, text, sizeof(text));
  return text;
}

bool SocketAddress::IsLoopback() const {
  if (storage_.ss_family == AF_INET) return (ntohl(V4(storage_).sin_addr.s_addr) >> 24) == 127;
  return IN6_IS_ADDR_LOOPBACK(&V6(storage_).sin6_addr);
}

}  // namespace conclave
