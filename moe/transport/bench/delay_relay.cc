#include "moe/transport/bench/delay_relay.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <deque>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

namespace conclave {
namespace {

constexpr size_t kPieceBytes = 256 << 10;
constexpr size_t kHeldBytesMax = 64 << 20;  // one way; a sender then has to wait

// One way of a connection.
struct Way {
  struct Piece {
    absl::Time due;
    std::vector<char> bytes;
    size_t sent = 0;
  };
  int from = -1, to = -1;
  std::deque<Piece> pieces;
  size_t held = 0;
  bool over = false;
};

void NoDelay(int socket) {
  const int on = 1;
  setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
}

class Impl final : public DelayRelay {
 public:
  Impl(const sockaddr_in& target, absl::Duration delay) : target_(target), delay_(delay) {}

  ~Impl() override {
    stop_ = true;
    const uint64_t one = 1;
    if (wake_ >= 0) [[maybe_unused]] const ssize_t woken = write(wake_, &one, sizeof(one));
    if (thread_.joinable()) thread_.join();
    for (size_t i = 0; i < ways_.size(); i += 2) close(ways_[i].from), close(ways_[i].to);
    for (const int socket : {listener_, wake_}) {
      if (socket >= 0) close(socket);
    }
  }

  absl::Status Listen() {
    wake_ = eventfd(0, EFD_CLOEXEC);
    listener_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in own = {};
    own.sin_family = AF_INET;
    own.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof(own);
    if (wake_ < 0 || listener_ < 0 || bind(listener_, reinterpret_cast<sockaddr*>(&own), sizeof(own)) != 0 ||
        listen(listener_, 16) != 0 || getsockname(listener_, reinterpret_cast<sockaddr*>(&own), &length) != 0) {
      return absl::UnavailableError(absl::StrCat("relay: ", strerror(errno)));
    }
    address_ = absl::StrCat("127.0.0.1:", ntohs(own.sin_port));
    thread_ = std::thread([this] { Run(); });
    return absl::OkStatus();
  }

  const std::string& address() const override { return address_; }

 private:
  void Run() {
    while (!stop_) {
      std::vector<pollfd> polled = {{wake_, POLLIN, 0}, {listener_, POLLIN, 0}};
      absl::Time next = absl::Now() + absl::Hours(1);
      for (const Way& way : ways_) {
        if (!way.over && way.held < kHeldBytesMax) polled.push_back({way.from, POLLIN, 0});
        if (way.pieces.empty()) continue;
        if (way.pieces.front().due <= absl::Now()) polled.push_back({way.to, POLLOUT, 0});
        next = std::min(next, std::max(way.pieces.front().due, absl::Now() + absl::Microseconds(10)));
      }
      const timespec timeout = absl::ToTimespec(std::max(next - absl::Now(), absl::ZeroDuration()));
      ppoll(polled.data(), polled.size(), &timeout, nullptr);
      if ((polled[1].revents & POLLIN) != 0) Accept();
      for (Way& way : ways_) Pass(way);
      CloseOver();
    }
  }

  void Accept() {
    const int client = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
    if (client < 0) return;
    const int server = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (server < 0 || connect(server, reinterpret_cast<const sockaddr*>(&target_), sizeof(target_)) != 0) {
      close(client);
      if (server >= 0) close(server);
      return;
    }
    NoDelay(client);
    NoDelay(server);
    ways_.emplace_back();
    ways_.back().from = client, ways_.back().to = server;
    ways_.emplace_back();
    ways_.back().from = server, ways_.back().to = client;
  }

  void Pass(Way& way) {
    while (!way.over && way.held < kHeldBytesMax) {
      const ssize_t got = recv(way.from, buffer_.data(), buffer_.size(), MSG_DONTWAIT);
      if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR)) way.over = true;
      if (got <= 0) break;
      way.held += static_cast<size_t>(got);
      way.pieces.push_back({absl::Now() + delay_, std::vector<char>(buffer_.begin(), buffer_.begin() + got)});
    }
    while (!way.pieces.empty() && way.pieces.front().due <= absl::Now()) {
      Way::Piece& piece = way.pieces.front();
      const ssize_t sent = send(way.to, piece.bytes.data() + piece.sent, piece.bytes.size() - piece.sent,
                                MSG_DONTWAIT | MSG_NOSIGNAL);
      if (sent < 0 && errno != EAGAIN && errno != EINTR) way.over = true;
      if (sent <= 0) return;
      piece.sent += static_cast<size_t>(sent);
      way.held -= static_cast<size_t>(sent);
      if (piece.sent == piece.bytes.size()) way.pieces.pop_front();
    }
  }

  // A connection of which one end is gone, once what it sent is through.
  void CloseOver() {
    for (size_t i = ways_.size(); i >= 2; i -= 2) {
      Way& there = ways_[i - 2];
      Way& back = ways_[i - 1];
      const bool done = (there.over && there.pieces.empty()) || (back.over && back.pieces.empty());
      if (!done) continue;
      close(there.from);
      close(there.to);
      ways_.erase(ways_.begin() + static_cast<int64_t>(i) - 2, ways_.begin() + static_cast<int64_t>(i));
    }
  }

  const sockaddr_in target_;
  const absl::Duration delay_;
  int listener_ = -1, wake_ = -1;
  std::string address_;
  std::atomic<bool> stop_{false};
  std::vector<char> buffer_ = std::vector<char>(kPieceBytes);
  std::vector<Way> ways_;  // the thread's own; two of a connection, one after the other
  std::thread thread_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<DelayRelay>> DelayRelay::Start(const std::string& target, absl::Duration delay) {
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  const size_t colon = target.rfind(':');
  uint32_t port = 0;
  if (colon == std::string::npos || inet_pton(AF_INET, target.substr(0, colon).c_str(), &address.sin_addr) != 1 ||
      !absl::SimpleAtoi(target.substr(colon + 1), &port) || port < 1 || port > 65535) {
    return absl::InvalidArgumentError(absl::StrCat("relay: \"", target, "\" is not a numeric IPv4 host:port"));
  }
  address.sin_port = htons(static_cast<uint16_t>(port));
  auto relay = std::make_unique<Impl>(address, delay);
  if (absl::Status status = relay->Listen(); !status.ok()) return status;
  return std::unique_ptr<DelayRelay>(std::move(relay));
}

}  // namespace conclave
