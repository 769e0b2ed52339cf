#include "moe/transport/grpc/grpc_transport.h"

#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "moe/base/ids.h"
#include "moe/transport/fake_expert_handler.h"
#include "moe/transport/grpc/describe.h"
#include "moe/transport/grpc/expert_grpc_service.h"
#include "moe/transport/transport_test_suite.h"

namespace conclave {
namespace {

using ::testing::HasSubstr;

std::unique_ptr<GrpcExpertServer> MustStart(const std::string& address, ExpertHandler& handler) {
  // A port that was in use a moment ago may need a moment.
  for (int i = 0; i < 100; ++i) {
    auto server = GrpcExpertServer::Start(address, handler);
    if (server.ok()) return *std::move(server);
    absl::SleepFor(absl::Milliseconds(20));
  }
  ADD_FAILURE() << "cannot start a server on " << address;
  return nullptr;
}

class GrpcHarness final : public TransportHarness {
 public:
  explicit GrpcHarness(std::vector<ExpertHandler*> handlers) : handlers_(std::move(handlers)) {
    for (ExpertHandler* handler : handlers_) {
      servers_.push_back(MustStart("127.0.0.1:0", *handler));
      addresses_.push_back(servers_.back()->address());
    }
    transport_ = NewGrpcTransport(addresses_, GrpcTransportOptions{});
  }
  Transport& transport() override { return *transport_; }
  void Kill(ShardId shard) override { servers_[Value(shard)].reset(); }
  void Revive(ShardId shard) override {
    servers_[Value(shard)] = MustStart(addresses_[Value(shard)], *handlers_[Value(shard)]);
  }

 private:
  std::vector<ExpertHandler*> handlers_;
  std::vector<std::unique_ptr<GrpcExpertServer>> servers_;
  std::vector<std::string> addresses_;
  std::unique_ptr<Transport> transport_;
};

std::unique_ptr<TransportHarness> NewGrpcHarness(std::vector<ExpertHandler*> handlers) {
  return std::make_unique<GrpcHarness>(std::move(handlers));
}

INSTANTIATE_TEST_SUITE_P(Grpc, TransportTest, testing::Values(HarnessFactory(&NewGrpcHarness)));

absl::Status OneCall(Transport& transport, uint64_t id) {
  TestCall call(id, DType::kF32, 2, 8, {{0, 1}});
  call.Send(transport, ShardId{0}, absl::Seconds(20));
  while (!call.done()) transport.Progress(absl::Seconds(1));
  EXPECT_TRUE(!call.status().ok() || call.OutIsRight());
  return call.status();
}

TEST(GrpcTransport, RefusesAShardThatServesAnotherModelOrProfile) {
  FakeExpertHandler handler("fake-0", 8, 4);
  const auto server = MustStart("127.0.0.1:0", handler);
  GrpcTransportOptions options;
  options.model_fingerprint = "fake-model";
  options.numeric_profile = "fake-profile";
  EXPECT_TRUE(OneCall(*NewGrpcTransport({server->address()}, options), 1).ok());
  options.model_fingerprint = "another";
  const absl::Status other_model = OneCall(*NewGrpcTransport({server->address()}, options), 2);
  EXPECT_EQ(other_model.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(other_model.message()), HasSubstr("serves the model fake-model"));
  options.model_fingerprint.clear();
  options.numeric_profile = "r9";
  EXPECT_THAT(std::string(OneCall(*NewGrpcTransport({server->address()}, options), 3).message()),
              HasSubstr("numeric profile fake-profile"));
}

TEST(GrpcTransport, FailsFastWhereNobodyListens) {
  FakeExpertHandler handler("fake-0", 8, 4);
  std::string address;
  { address = MustStart("127.0.0.1:0", handler)->address(); }
  const auto transport = NewGrpcTransport({address}, GrpcTransportOptions{});
  const absl::Time begin = absl::Now();
  const absl::Status status = OneCall(*transport, 1);
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("shard 0 at " + address));
  EXPECT_LT(absl::Now() - begin, absl::Seconds(5));
}

TEST(GrpcExpertServer, NamesAnAddressItCannotListenOn) {
  FakeExpertHandler handler("fake-0", 8, 4);
  const auto first = MustStart("127.0.0.1:0", handler);
  const auto second = GrpcExpertServer::Start(first->address(), handler);
  EXPECT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(second.status().message()), HasSubstr(first->address()));
  EXPECT_EQ(GrpcExpertServer::Start("nowhere", handler).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(DescribeShards, TellsWhatEveryShardHolds) {
  FakeExpertHandler a("a", 8, 4), b("b", 16, 3);
  const auto first = MustStart("127.0.0.1:0", a);
  const auto second = MustStart("127.0.0.1:0", b);
  const auto shards =
      DescribeShards({first->address(), second->address()}, "fake-model", absl::Now() + absl::Seconds(20));
  ASSERT_TRUE(shards.ok()) << shards.status();
  ASSERT_EQ(shards->size(), 2u);
  EXPECT_EQ((*shards)[0].name, "a");
  EXPECT_EQ((*shards)[1].hidden, 16);
  EXPECT_EQ((*shards)[1].numeric_profile, "fake-profile");
  EXPECT_EQ((*shards)[1].placement_epoch, 1u);
  ASSERT_EQ((*shards)[1].holdings.size(), 1u);
  EXPECT_EQ((*shards)[1].holdings[0].experts.size(), 3u);
}

TEST(DescribeShards, WaitsForAShardThatStillStarts) {
  FakeExpertHandler handler("late", 8, 4);
  const std::string address = MustStart("127.0.0.1:0", handler)->address();  // and gone again
  std::unique_ptr<GrpcExpertServer> server;
  std::thread starter([&] {
    absl::SleepFor(absl::Milliseconds(300));
    server = MustStart(address, handler);
  });
  const auto shards = DescribeShards({address}, "", absl::Now() + absl::Seconds(30));
  EXPECT_TRUE(shards.ok()) << shards.status();
  starter.join();
}

TEST(DescribeShards, NamesTheShardThatIsMissingOrServesAnotherModel) {
  FakeExpertHandler handler("a", 8, 4);
  auto server = MustStart("127.0.0.1:0", handler);
  const std::string address = server->address();
  const auto other = DescribeShards({address}, "another", absl::Now() + absl::Seconds(20));
  EXPECT_EQ(other.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(other.status().message()), HasSubstr("expert shard 0 at " + address));
  server.reset();
  const auto missing = DescribeShards({address}, "", absl::Now() + absl::Milliseconds(300));
  EXPECT_FALSE(missing.ok());
  EXPECT_THAT(std::string(missing.status().message()), HasSubstr(address));
}

}  // namespace
}  // namespace conclave
