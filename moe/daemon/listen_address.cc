#include "moe/daemon/listen_address.h"

#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "moe/base/status_macros.h"

namespace conclave {
namespace {

constexpr size_t kHostLettersMax = 253;  // RFC 1035

bool IsHost(absl::string_view host) {
  if (host.empty() || host.size() > kHostLettersMax) return false;
  for (const char c : host) {
    if (!absl::ascii_isalnum(static_cast<unsigned char>(c)) && !absl::StrContains(".-_:%", c)) return false;
  }
  return true;
}

}  // namespace

absl::StatusOr<HostPort> ParseHostPort(absl::string_view address) {
  const auto refuse = [address] {
    return absl::InvalidArgumentError(
        absl::StrCat("expected host:port, got '", absl::string_view(address).substr(0, 300), "'"));
  };
  const size_t colon = address.rfind(':');
  if (colon == absl::string_view::npos) return refuse();
  absl::string_view host = address.substr(0, colon);
  const bool bracketed = host.size() > 2 && host.front() == '[' && host.back() == ']';
  if (bracketed) host = host.substr(1, host.size() - 2);
  // Without brackets, "::1:80" could mean two things.
  if (!IsHost(host) || (!bracketed && absl::StrContains(host, ':'))) return refuse();
  HostPort result{std::string(host), 0};
  const absl::string_view digits = address.substr(colon + 1);
  for (const char c : digits) {
    if (!absl::ascii_isdigit(static_cast<unsigned char>(c))) return refuse();
  }
  if (!absl::SimpleAtoi(digits, &result.port) || result.port > 65535) return refuse();
  return result;
}

std::string JoinHostPort(absl::string_view host, int port) {
  return absl::StrContains(host, ':') ? absl::StrCat("[", host, "]:", port) : absl::StrCat(host, ":", port);
}

absl::Status ExplainListenFailure(const std::string& address, absl::string_view flag) {
  ASSIGN_OR_RETURN(const HostPort where, ParseHostPort(address));
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE;
  addrinfo* found = nullptr;
  const int error = getaddrinfo(where.host.c_str(), absl::StrCat(where.port).c_str(), &hints, &found);
  if (error != 0) {
    return absl::UnavailableError(
        absl::StrCat("cannot listen on ", address, ": ", gai_strerror(error), "; change --", flag));
  }
  const absl::Cleanup free_found = [found] { freeaddrinfo(found); };
  const int socket = ::socket(found->ai_family, found->ai_socktype, found->ai_protocol);
  const absl::Cleanup close_socket = [socket] { ::close(socket); };
  // As servers do: a port in TIME_WAIT is free.
  const int on = 1;
  ::setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  errno = 0;
  if (::bind(socket, found->ai_addr, found->ai_addrlen) == 0 && ::listen(socket, 1) == 0) {
    return absl::UnavailableError(absl::StrCat("cannot listen on ", address, "; try again, or change --", flag));
  }
  if (errno == EADDRINUSE) {
    return absl::UnavailableError(
        absl::StrCat("port ", where.port, " of ", where.host, " is in use; choose another with --", flag));
  }
  return absl::UnavailableError(absl::StrCat("cannot listen on ", address, ": ", strerror(errno), "; change --", flag));
}

}  // namespace conclave
