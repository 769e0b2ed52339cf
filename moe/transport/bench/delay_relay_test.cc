#include "moe/transport/bench/delay_relay.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>
#include <string>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "gtest/gtest.h"

namespace conclave {
namespace {

sockaddr_in Loopback(int port) {
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(static_cast<uint16_t>(port));
  return address;
}

// Gives one client its bytes back, until it closes.
class EchoServer {
 public:
  EchoServer() : listener_(socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address = Loopback(0);
    socklen_t length = sizeof(address);
    EXPECT_EQ(bind(listener_, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
    EXPECT_EQ(listen(listener_, 1), 0);
    getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &length);
    port = ntohs(address.sin_port);
    thread_ = std::thread([this] {
      const int client = accept(listener_, nullptr, nullptr);
      char bytes[4096];
      for (ssize_t got = 0; (got = recv(client, bytes, sizeof(bytes), 0)) > 0;) send(client, bytes, got, MSG_NOSIGNAL);
      close(client);
    });
  }
  ~EchoServer() {
    thread_.join();
    close(listener_);
  }
  int port = 0;

 private:
  const int listener_;
  std::thread thread_;
};

TEST(DelayRelay, BringsEverythingInOrderAndLate) {
  EchoServer server;
  auto relay = DelayRelay::Start(absl::StrCat("127.0.0.1:", server.port), absl::Milliseconds(10));
  ASSERT_TRUE(relay.ok()) << relay.status();
  const std::string& address = (*relay)->address();
  const int client = socket(AF_INET, SOCK_STREAM, 0);
  const sockaddr_in at = Loopback(std::atoi(address.substr(address.rfind(':') + 1).c_str()));
  ASSERT_EQ(connect(client, reinterpret_cast<const sockaddr*>(&at), sizeof(at)), 0);
  std::string sent;
  for (int i = 0; i < 20000; ++i) absl::StrAppend(&sent, i, " ");
  const absl::Time begin = absl::Now();
  std::thread writer([&] {
    for (size_t done = 0; done < sent.size();) {
      const ssize_t count = send(client, sent.data() + done, sent.size() - done, MSG_NOSIGNAL);
      ASSERT_GT(count, 0);
      done += static_cast<size_t>(count);
    }
  });
  std::string received(sent.size(), '?');
  ASSERT_EQ(recv(client, received.data(), 1, MSG_WAITALL), 1);
  EXPECT_GE(absl::Now() - begin, absl::Milliseconds(20)) << "there and back";
  ASSERT_EQ(recv(client, received.data() + 1, received.size() - 1, MSG_WAITALL),
            static_cast<ssize_t>(received.size() - 1));
  EXPECT_EQ(received, sent);
  writer.join();
  close(client);
}

TEST(DelayRelay, RefusesATargetThatIsNone) {
  for (const char* target : {"", "127.0.0.1", "localhost:80", "127.0.0.1:0", "127.0.0.1:x"}) {
    EXPECT_FALSE(DelayRelay::Start(target, absl::Milliseconds(1)).ok()) << target;
  }
}

}  // namespace
}  // namespace conclave
