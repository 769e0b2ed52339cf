#include "moe/base/test_port.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <string>

#include "gtest/gtest.h"

namespace conclave {
namespace {

sockaddr_in Parse(const std::string& address) {
  sockaddr_in parsed{};
  parsed.sin_family = AF_INET;
  parsed.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  parsed.sin_port = htons(static_cast<uint16_t>(std::atoi(address.c_str() + address.find(':') + 1)));
  return parsed;
}

// A socket that listens at `address`, or -errno.
int Listen(const std::string& address, bool reuse) {
  const sockaddr_in where = Parse(address);
  const int fd = ::socket(AF_INET, SOCK_STREAM, 0), on = reuse;
  ::setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  if (::bind(fd, reinterpret_cast<const sockaddr*>(&where), sizeof(where)) == 0 && ::listen(fd, 4) == 0) return fd;
  const int error = errno;
  ::close(fd);
  return -error;
}

// A connected socket, or -errno.
int Connect(const std::string& address) {
  const sockaddr_in where = Parse(address);
  const int fd = ::socket(AF_INET, SOCK_STREAM, 0);
  if (::connect(fd, reinterpret_cast<const sockaddr*>(&where), sizeof(where)) == 0) return fd;
  const int error = errno;
  ::close(fd);
  return -error;
}

TEST(NewTestAddress, IsAnotherEachTime) { EXPECT_NE(NewTestAddress(), NewTestAddress()); }

TEST(NewTestAddress, NobodyListensThereUntilTheTestDoesAgainAndAgain) {
  const std::string address = NewTestAddress();
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(Connect(address), -ECONNREFUSED);
    const int listener = Listen(address, /*reuse=*/true);
    ASSERT_GE(listener, 0);
    const int client = Connect(address), server = ::accept(listener, nullptr, nullptr);
    EXPECT_GE(client, 0);
    EXPECT_EQ(Listen(address, /*reuse=*/true), -EADDRINUSE) << "one at a time";
    for (const int fd : {server, client, listener}) ::close(fd);  // the server's end first: it waits a minute
  }
}

TEST(NewTestAddress, IsHeldWhileNobodyListens) {
  const std::string address = NewTestAddress();
  EXPECT_EQ(Listen(address, /*reuse=*/false), -EADDRINUSE);
}

}  // namespace
}  // namespace conclave
