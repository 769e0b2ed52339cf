#include "moe/transport/nccl/lane.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "moe/base/check.h"
#include "moe/base/status_macros.h"

namespace conclave {
namespace {

constexpr int kBacklog = 64;
// A peer that is cut off without a word is noticed after about this long.
constexpr int kSilenceSeconds = 5;

absl::Status Gone(absl::string_view what) {
  return absl::UnavailableError(absl::StrCat("the connection of call headers: ", what));
}

void Prepare(int socket) {
  const int on = 1, second = 1, probes = kSilenceSeconds;
  setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
  setsockopt(socket, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
  setsockopt(socket, IPPROTO_TCP, TCP_KEEPIDLE, &second, sizeof(second));
  setsockopt(socket, IPPROTO_TCP, TCP_KEEPINTVL, &second, sizeof(second));
  setsockopt(socket, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof(probes));
}

}  // namespace

int64_t LanePayloadBytes(const WireHeader& header) {
  if (header.kind == WireKind::kCall) return CallMetaBytes(header.rows, header.pairs);
  if (header.kind == WireKind::kReply && header.status == 0) return 0;
  return static_cast<int64_t>(header.body_bytes);
}

absl::StatusOr<std::unique_ptr<Lane>> Lane::Connect(const SocketAddress& address) {
  const int fd = ::socket(address.get()->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) return Gone(std::strerror(errno));
  auto lane = std::make_unique<Lane>(fd);
  if (connect(fd, address.get(), address.length()) != 0 && errno != EINPROGRESS) return Gone(std::strerror(errno));
  return lane;
}

Lane::Lane(int socket) : socket_(socket) { Prepare(socket_); }

Lane::~Lane() { close(socket_); }

void Lane::Push(const WireHeader& header, const void* payload) {
  const auto append = [this](const void* bytes, int64_t count) {
    const auto* const begin = static_cast<const std::byte*>(bytes);
    outgoing_.insert(outgoing_.end(), begin, begin + count);
  };
  append(&header, sizeof(header));
  append(payload, LanePayloadBytes(header));
  Pump().IgnoreError();  // the next one says it again
}

absl::Status Lane::Pump() {
  while (sending()) {
    const ssize_t sent = send(socket_, outgoing_.data() + sent_, outgoing_.size() - sent_, MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    // ENOTCONN: a connection that is being made.
    if (sent < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == ENOTCONN)) return absl::OkStatus();
    if (sent < 0) return Gone(std::strerror(errno));
    sent_ += static_cast<size_t>(sent);
  }
  outgoing_.clear();
  sent_ = 0;
  return absl::OkStatus();
}

// Adds to the `*have` bytes that are there of `wanted`.
absl::Status Lane::Receive(std::byte* to, size_t wanted, size_t* have) {
  while (*have < wanted) {
    const ssize_t came = recv(socket_, to + *have, wanted - *have, 0);
    if (came < 0 && errno == EINTR) continue;
    if (came < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == ENOTCONN)) return absl::OkStatus();
    if (came < 0) return Gone(std::strerror(errno));
    if (came == 0) return Gone("closed by the other end");
    *have += static_cast<size_t>(came);
  }
  return absl::OkStatus();
}

absl::StatusOr<bool> Lane::Next(int64_t payload_bytes_max, Message* message) {
  if (header_have_ < sizeof(WireHeader)) {
    RETURN_IF_ERROR(Receive(header_, sizeof(WireHeader), &header_have_));
    if (header_have_ < sizeof(WireHeader)) return false;
    RETURN_IF_ERROR(ReadHeader(header_, &incoming_.header));
    if (incoming_.header.offset != 0) return absl::InvalidArgumentError("offset: a message in parts");
    const int64_t bytes = LanePayloadBytes(incoming_.header);
    if (bytes > payload_bytes_max) {
      return absl::ResourceExhaustedError(absl::StrCat("a message of ", bytes, " bytes, at most ", payload_bytes_max));
    }
    incoming_.payload.resize(static_cast<size_t>(bytes));
  }
  RETURN_IF_ERROR(Receive(incoming_.payload.data(), incoming_.payload.size(), &payload_have_));
  if (payload_have_ < incoming_.payload.size()) return false;
  header_have_ = payload_have_ = 0;
  std::swap(*message, incoming_);
  return true;
}

absl::StatusOr<int> ListenOn(const SocketAddress& address) {
  const int fd = ::socket(address.get()->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) return Gone(std::strerror(errno));
  const int on = 1;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  if (bind(fd, address.get(), address.length()) == 0 && listen(fd, kBacklog) == 0) return fd;
  const absl::Status failed = Gone(std::strerror(errno));
  close(fd);
  return failed;
}

int AcceptFrom(int listener, std::string* host) {
  sockaddr_storage from = {};
  socklen_t length = sizeof(from);
  const int fd = accept4(listener, reinterpret_cast<sockaddr*>(&from), &length, SOCK_NONBLOCK | SOCK_CLOEXEC);
  if (fd >= 0) *host = SocketAddress(from).Host();
  return fd;
}

std::string BoundAddress(int listener) {
  sockaddr_storage bound = {};
  socklen_t length = sizeof(bound);
  CONCLAVE_CHECK(getsockname(listener, reinterpret_cast<sockaddr*>(&bound), &length) == 0) << listener;
  const SocketAddress address(bound);
  const bool v6 = bound.ss_family == AF_INET6;
  return absl::StrCat(v6 ? "[" : "", address.Host(), v6 ? "]:" : ":", address.port());
}

}  // namespace conclave
