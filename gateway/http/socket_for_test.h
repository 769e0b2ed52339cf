// A client's socket, for tests of the server alone.
#ifndef CONCLAVE_GATEWAY_HTTP_SOCKET_FOR_TEST_H_
#define CONCLAVE_GATEWAY_HTTP_SOCKET_FOR_TEST_H_

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <cerrno>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"

namespace conclave {

// Connected from the start; reads end after twenty seconds.
class TestSocket {
 public:
  explicit TestSocket(const std::string& address, int receive_buffer = 0) : fd_(socket(AF_INET, SOCK_STREAM, 0)) {
    if (receive_buffer > 0) setsockopt(fd_, SOL_SOCKET, SO_RCVBUF, &receive_buffer, sizeof(receive_buffer));
    const timeval timeout{20, 0};
    setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
    sockaddr_in to = {};
    to.sin_family = AF_INET;
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int port = 0;
    EXPECT_TRUE(absl::SimpleAtoi(address.substr(address.rfind(':') + 1), &port));
    to.sin_port = htons(static_cast<uint16_t>(port));
    EXPECT_EQ(connect(fd_, reinterpret_cast<sockaddr*>(&to), sizeof(to)), 0);
  }
  ~TestSocket() { Close(); }
  void Close() {
    if (fd_ >= 0) close(fd_);
    fd_ = -1;
  }
  void Send(const std::string& text) { send(fd_, text.data(), text.size(), MSG_NOSIGNAL); }
  // Everything until `end` has come, or until the server closes.
  std::string ReadUntil(const std::string& end) {
    std::string text;
    char buffer[4096];
    while (end.empty() || !absl::StrContains(text, end)) {
      const ssize_t bytes = recv(fd_, buffer, sizeof(buffer), 0);
      if (bytes < 0 && errno == EINTR) continue;
      if (bytes <= 0) return absl::StrCat(text, bytes == 0 ? "<closed>" : "<error>");
      text.append(buffer, static_cast<size_t>(bytes));
    }
    return text;
  }

 private:
  int fd_;
};

}  // namespace conclave

#endif  // CONCLAVE_GATEWAY_HTTP_SOCKET_FOR_TEST_H_
