// A shard that dies in the middle of being connected to costs its router an attempt, and nothing else. The moment is
// too short to be met by chance: this file's own connect() and accept() hold it open.
#include <dlfcn.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <atomic>
#include <cerrno>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/clock.h"
#include "gtest/gtest.h"
#include "moe/base/ids.h"
#include "moe/transport/data_plane/direct_control.h"
#include "moe/transport/fake_expert_handler.h"
#include "moe/transport/transport_test_suite.h"
#include "moe/transport/ucx/ucx_expert_server.h"
#include "moe/transport/ucx/ucx_transport.h"

namespace conclave {
namespace {

// Called around each connect() of the thread that sets them, with the port.
thread_local std::function<void(int port)> before_connect, after_connect;
// Connections to this port stay in the kernel's queue.
std::atomic<int> deaf_port{-2};

int PortOf(const sockaddr* address) {
  return address->sa_family == AF_INET ? ntohs(reinterpret_cast<const sockaddr_in*>(address)->sin_port) : -1;
}

}  // namespace
}  // namespace conclave

extern "C" int connect(int fd, const sockaddr* address, socklen_t length) {
  static const auto real = reinterpret_cast<decltype(&connect)>(dlsym(RTLD_NEXT, "connect"));
  if (conclave::before_connect) conclave::before_connect(conclave::PortOf(address));
  const int result = real(fd, address, length);
  const int error = errno;
  if (conclave::after_connect) conclave::after_connect(conclave::PortOf(address));
  errno = error;
  return result;
}

extern "C" int accept(int fd, sockaddr* address, socklen_t* length) {
  static const auto real = reinterpret_cast<decltype(&accept)>(dlsym(RTLD_NEXT, "accept"));
  sockaddr_storage own = {};
  socklen_t own_length = sizeof(own);
  getsockname(fd, reinterpret_cast<sockaddr*>(&own), &own_length);
  if (conclave::PortOf(reinterpret_cast<sockaddr*>(&own)) != conclave::deaf_port) return real(fd, address, length);
  errno = EAGAIN;
  return -1;
}

namespace conclave {
namespace {

GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(TransportTest);  // only its TestCall is of use here

constexpr int kTimes = 10;

class DyingPeerTest : public testing::Test {
 protected:
  DyingPeerTest() : shards_(std::make_shared<std::vector<DataPlane*>>(1)) {}

  void StartServer() {
    UcxExpertServerOptions options;
    options.worker.links = UcxLinks::kTcp;
    auto server = UcxExpertServer::Start(options);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    server_->SetHandler(&handler_);
    (*shards_)[0] = server_.get();
  }
  void StopServer() {
    (*shards_)[0] = nullptr;
    server_.reset();
  }
  void StartRouter() {
    UcxTransportOptions options;
    options.backoff_max = absl::Milliseconds(20);
    options.worker.links = UcxLinks::kTcp;
    auto transport = NewUcxTransport(1, std::make_unique<DirectControl>(shards_), options);
    ASSERT_TRUE(transport.ok()) << transport.status();
    transport_ = *std::move(transport);
  }
  bool ProgressUntil(const std::function<bool()>& what) {
    for (const absl::Time until = absl::Now() + absl::Seconds(20); !what() && absl::Now() < until;) {
      transport_->Progress(absl::Milliseconds(1));
    }
    return what();
  }
  void ExpectAnAnswer() {
    TestCall call(++calls_, DType::kF32, 2, 8, {{0, 1}});
    call.Send(*transport_, ShardId{0});
    EXPECT_TRUE(ProgressUntil([&] { return call.done(); }));
    EXPECT_TRUE(call.status().ok()) << call.status();
    EXPECT_TRUE(call.OutIsRight());
  }

  uint64_t calls_ = 0;
  FakeExpertHandler handler_{"dying", 8, 4};
  DirectShards shards_;
  std::unique_ptr<UcxExpertServer> server_;
  std::unique_ptr<UcxTransport> transport_;
};

// UCX 1.13 ends the process where it connects in a blocking way and the peer is gone before the first bytes.
TEST_F(DyingPeerTest, MayDieBetweenTheKernelsConnectAndTheFirstBytes) {
  int died = 0;
  // Which of the two connects depends on their ports.
  for (int i = 0; i < 100 && died < kTimes; ++i) {
    StartRouter();
    StartServer();
    const int listener = std::stoi(server_->address().substr(server_->address().rfind(':') + 1));
    before_connect = [&](int port) {
      if (port != listener) deaf_port = port;
    };
    after_connect = [&](int port) {
      if (port == listener || server_ == nullptr) return;
      StopServer();
      ++died;
    };
    EXPECT_TRUE(ProgressUntil([&] { return server_ == nullptr || transport_->Connected(ShardId{0}); }));
    before_connect = after_connect = nullptr;
    deaf_port = -2;
    StopServer();
    EXPECT_TRUE(ProgressUntil([&] { return !transport_->Connected(ShardId{0}); }));
    StartServer();
    EXPECT_TRUE(ProgressUntil([&] { return transport_->Connected(ShardId{0}); }));
    ExpectAnAnswer();
    StopServer();
    EXPECT_TRUE(ProgressUntil([&] { return !transport_->Connected(ShardId{0}); }));
  }
  EXPECT_EQ(died, kTimes);
}

}  // namespace
}  // namespace conclave
