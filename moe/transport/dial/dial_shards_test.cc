#include "moe/transport/dial/dial_shards.h"

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "moe/base/ids.h"
#include "moe/base/test_port.h"
#include "moe/transport/fake_expert_handler.h"
#include "moe/transport/grpc/expert_grpc_service.h"
#include "moe/transport/grpc/grpc_data_plane_client.h"
#include "moe/transport/transport_test_suite.h"
#include "moe/transport/ucx/ucx_expert_server.h"

namespace conclave {
namespace {

using ::testing::HasSubstr;

// A shard as expert_service runs it: control and calls over gRPC, and UCX beside it where asked for.
struct Shard {
  Shard(ExpertHandler* handler, bool with_ucx, const std::string& address = NewTestAddress()) {
    if (with_ucx) {
      auto started = UcxExpertServer::Start(UcxExpertServerOptions{});
      EXPECT_TRUE(started.ok()) << started.status();
      ucx = *std::move(started);
      ucx->SetHandler(handler);
    }
    // A port that was in use a moment ago may need a moment.
    for (int i = 0; i < 100 && grpc == nullptr; ++i) {
      auto started = GrpcExpertServer::Start(address, *handler, ucx.get());
      if (started.ok()) grpc = *std::move(started);
      if (grpc == nullptr) absl::SleepFor(absl::Milliseconds(20));
    }
    EXPECT_NE(grpc, nullptr) << address;
  }
  std::unique_ptr<UcxExpertServer> ucx;
  std::unique_ptr<GrpcExpertServer> grpc;
};

// Shards of which every second one offers no UCX, if `mixed`.
class DialHarness final : public TransportHarness {
 public:
  DialHarness(std::vector<ExpertHandler*> handlers, TransportKind kind, bool mixed)
      : handlers_(std::move(handlers)), mixed_(mixed) {
    for (size_t i = 0; i < handlers_.size(); ++i) {
      shards_.push_back(std::make_unique<Shard>(handlers_[i], WithUcx(i)));
      addresses_.push_back(shards_.back()->grpc->address());
    }
    DialOptions options;
    options.kind = kind;
    auto transport = DialShards(addresses_, options);
    EXPECT_TRUE(transport.ok()) << transport.status();
    transport_ = *std::move(transport);
  }
  Transport& transport() override { return *transport_; }
  void Kill(ShardId shard) override { shards_[Value(shard)].reset(); }
  void Revive(ShardId shard) override {
    const size_t i = static_cast<size_t>(Value(shard));
    shards_[i] = std::make_unique<Shard>(handlers_[i], WithUcx(i), addresses_[i]);
  }

 private:
  bool WithUcx(size_t shard) const { return !mixed_ || shard % 2 == 0; }

  std::vector<ExpertHandler*> handlers_;
  const bool mixed_;
  std::vector<std::unique_ptr<Shard>> shards_;
  std::vector<std::string> addresses_;
  std::unique_ptr<Transport> transport_;
};

HarnessFactory Factory(TransportKind kind, bool mixed) {
  return [=](std::vector<ExpertHandler*> handlers) {
    return std::make_unique<DialHarness>(std::move(handlers), kind, mixed);
  };
}

INSTANTIATE_TEST_SUITE_P(Auto, TransportTest, testing::Values(Factory(TransportKind::kAuto, false)));
INSTANTIATE_TEST_SUITE_P(AutoMixed, TransportTest, testing::Values(Factory(TransportKind::kAuto, true)));
INSTANTIATE_TEST_SUITE_P(Ucx, TransportTest, testing::Values(Factory(TransportKind::kUcx, false)));

absl::Status OneCall(Transport& transport, uint64_t id) {
  TestCall call(id, DType::kF32, 2, 8, {{0, 1}});
  call.Send(transport, ShardId{0}, absl::Seconds(20));
  while (!call.done()) transport.Progress(absl::Seconds(1));
  EXPECT_TRUE(!call.status().ok() || call.OutIsRight());
  return call.status();
}

class DialShardsTest : public testing::Test {
 protected:
  DialOptions Options(TransportKind kind) {
    DialOptions options;
    options.kind = kind;
    options.ucx_wait = absl::Seconds(1);
    return options;
  }
  FakeExpertHandler handler_{"fake-0", 8, 4};
};

TEST_F(DialShardsTest, TakesGrpcWhereTheShardHasNoUcx) {
  const Shard shard(&handler_, /*with_ucx=*/false);
  const auto transport = DialShards({shard.grpc->address()}, Options(TransportKind::kAuto));
  ASSERT_TRUE(transport.ok()) << transport.status();
  EXPECT_TRUE(OneCall(**transport, 1).ok());
}

TEST_F(DialShardsTest, SaysThatNcclNeedsAGpu) {
  const auto refused = DialShards({"127.0.0.1:1"}, Options(TransportKind::kNccl));
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(refused.status().message()), HasSubstr("--device cuda"));
}

TEST_F(DialShardsTest, SaysWhyUcxDoesNotWork) {
  const Shard without(&handler_, /*with_ucx=*/false);
  const auto refused = DialShards({without.grpc->address()}, Options(TransportKind::kUcx));
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(refused.status().message()), HasSubstr("takes activations over gRPC alone"));
  const Shard with(&handler_, /*with_ucx=*/true);
  DialOptions options = Options(TransportKind::kUcx);
  options.model_fingerprint = "another";
  // On a busy machine the refusal may not have come within the second that is waited for it.
  const auto refusal = [&](const std::string& words) {
    std::string message;
    for (int i = 0; i < 10 && !absl::StrContains(message, words); ++i) {
      message = std::string(DialShards({with.grpc->address()}, options).status().message());
    }
    return message;
  };
  EXPECT_THAT(refusal("serves the model"), HasSubstr("serves the model fake-model"));
  options.model_fingerprint.clear();
  options.numeric_profile = "r9";
  EXPECT_THAT(refusal("numeric profile"), HasSubstr("numeric profile fake-profile"));
}

TEST_F(DialShardsTest, FindsUcxAgainAfterTheShardCameBackWithIt) {
  auto shard = std::make_unique<Shard>(&handler_, /*with_ucx=*/false);
  const std::string address = shard->grpc->address();
  const auto transport = DialShards({address}, Options(TransportKind::kAuto));
  ASSERT_TRUE(transport.ok()) << transport.status();
  ASSERT_TRUE(OneCall(**transport, 1).ok());
  shard.reset();
  shard = std::make_unique<Shard>(&handler_, /*with_ucx=*/true, address);
  uint64_t id = 2;
  for (const absl::Time until = absl::Now() + absl::Seconds(20); absl::Now() < until;) {
    (*transport)->Progress(absl::Milliseconds(20));
    if (OneCall(**transport, id++).ok()) break;
  }
  EXPECT_TRUE(OneCall(**transport, id++).ok());
}

TEST(ParseTransportKind, KnowsItsNames) {
  EXPECT_EQ(*ParseTransportKind("auto"), TransportKind::kAuto);
  EXPECT_EQ(*ParseTransportKind("grpc"), TransportKind::kGrpc);
  EXPECT_EQ(*ParseTransportKind("ucx"), TransportKind::kUcx);
  EXPECT_THAT(std::string(ParseTransportKind("rdma").status().message()), HasSubstr("'rdma'"));
}

TEST(ReachableAddress, ReplacesAWildcardByTheHostThatAnswered) {
  EXPECT_EQ(ReachableAddress("0.0.0.0:7001", "ipv4:10.0.0.3:7000"), "10.0.0.3:7001");
  EXPECT_EQ(ReachableAddress("[::]:7001", "ipv6:%5B::1%5D:7000"), "[::1]:7001");
  EXPECT_EQ(ReachableAddress("[::]:7001", "ipv6:[fe80::1]:7000"), "[fe80::1]:7001");
  EXPECT_EQ(ReachableAddress("127.0.0.1:7001", "ipv4:10.0.0.3:7000"), "127.0.0.1:7001");
  EXPECT_EQ(ReachableAddress("0.0.0.0:7001", "unix:/x"), "0.0.0.0:7001");
}

}  // namespace
}  // namespace conclave
