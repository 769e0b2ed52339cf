#include "moe/transport/nccl/nccl_transport.h"

#include <algorithm>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "moe/base/clock.h"
#include "moe/base/ids.h"
#include "moe/kernels/accelerator/device_stream.h"
#include "moe/kernels/accelerator/open_accelerator.h"
#include "moe/tensor/buffer.h"
#include "moe/transport/data_plane/direct_control.h"
#include "moe/transport/fake_expert_handler.h"
#include "moe/transport/nccl/fake_nccl.h"
#include "moe/transport/nccl/lane.h"
#include "moe/transport/nccl/nccl_testing.h"
#include "moe/transport/nccl/nccl_expert_server.h"
#include "moe/transport/nccl/nccl_pair.h"
#include "moe/transport/transport_test_suite.h"

namespace conclave {
namespace {

using ::testing::HasSubstr;

// NCCL and streams of one kind for both ends.
struct Ground {
  const NcclApi* api = nullptr;
  StreamFactory new_stream;
  std::string gpu;
};

// A handler that pretends to take its rows on the device, whose memory is ours.
class OnDevice final : public ExpertHandler {
 public:
  explicit OnDevice(ExpertHandler& handler) : handler_(handler) {}
  ShardDescription Describe() const override { return handler_.Describe(); }
  bool TakesDeviceRows() const override { return true; }
  absl::Status Run(const ExpertCall& call, MatView out) override {
    EXPECT_EQ(call.rows.device, Device::kCuda);
    EXPECT_EQ(out.device, Device::kCuda);
    ExpertCall here = call;
    here.rows.device = out.device = Device::kCpu;
    return handler_.Run(here, out);
  }

 private:
  ExpertHandler& handler_;
};

class NcclHarness final : public TransportHarness {
 public:
  NcclHarness(std::vector<ExpertHandler*> handlers, const Ground& ground)
      : handlers_(std::move(handlers)), ground_(ground), shards_(std::make_shared<std::vector<DataPlane*>>()) {
    for (ExpertHandler* handler : handlers_) {
      servers_.push_back(MustStart(handler));
      shards_->push_back(servers_.back().get());
    }
    NcclTransportOptions options;
    options.api = ground_.api;
    options.new_stream = ground_.new_stream;
    options.gpu = ground_.gpu;
    options.move_timeout = absl::Minutes(1);  // a machine that stands still loses no connection
    transport_ = NewNcclTransport(static_cast<int>(shards_->size()), std::make_unique<DirectControl>(shards_), options);
  }
  NcclTransport& transport() override { return *transport_; }
  void Kill(ShardId shard) override {
    (*shards_)[Value(shard)] = nullptr;
    servers_[Value(shard)].reset();
  }
  void Revive(ShardId shard) override {
    servers_[Value(shard)] = MustStart(handlers_[Value(shard)]);
    (*shards_)[Value(shard)] = servers_[Value(shard)].get();
  }

 private:
  std::unique_ptr<NcclExpertServer> MustStart(ExpertHandler* handler) {
    NcclExpertServerOptions options;
    options.api = ground_.api;
    options.new_stream = ground_.new_stream;
    options.gpu = ground_.gpu;
    options.move_timeout = absl::Minutes(1);
    auto server = NcclExpertServer::Start(options);
    EXPECT_TRUE(server.ok()) << server.status();
    (*server)->SetHandler(handler);
    return *std::move(server);
  }

  std::vector<ExpertHandler*> handlers_;
  const Ground ground_;
  DirectShards shards_;
  std::vector<std::unique_ptr<NcclExpertServer>> servers_;
  std::unique_ptr<NcclTransport> transport_;
};

Ground FakeGround() {
  static const NcclApi* const api = new NcclApi(fake_nccl::Api());
  return {api, fake_nccl::Streams(), "gpu-of-this-machine"};
}

// The suite over a GPU and the NCCL of this machine, where there are both; what is missing otherwise.
absl::StatusOr<Ground> RealGround() {
  static auto* const accelerator = new absl::StatusOr<std::unique_ptr<Accelerator>>(OpenAccelerator("cuda"));
  if (!accelerator->ok()) return accelerator->status();
  const absl::StatusOr<const NcclApi*> api = LoadNccl();
  if (!api.ok()) return api.status();
  if ((*api)->version < kNcclVersionOneGpuMin) {
    return absl::FailedPreconditionError("several ranks on one GPU need a later NCCL");
  }
  return Ground{*api, [] { return (**accelerator)->NewStream(); }, (**accelerator)->info().uuid};
}

std::vector<HarnessFactory> Grounds() {
  std::vector<HarnessFactory> factories = {[](std::vector<ExpertHandler*> handlers) {
    return std::make_unique<NcclHarness>(std::move(handlers), FakeGround());
  }};
  if (RealGround().ok()) {
    factories.push_back([](std::vector<ExpertHandler*> handlers) {
      return std::make_unique<NcclHarness>(std::move(handlers), *RealGround());
    });
  }
  return factories;
}

// Says in the log which of the two ran.
TEST(NcclTransportSuite, RunsOverAGpuWhereThereIsOne) {
  const absl::StatusOr<Ground> real = RealGround();
  std::printf("NCCL and a GPU: %s\n", real.ok() ? "here" : real.status().ToString().c_str());
  EXPECT_EQ(Grounds().size(), real.ok() ? 2u : 1u);
}

INSTANTIATE_TEST_SUITE_P(Nccl, TransportTest, testing::ValuesIn(Grounds()));

TEST_F(NcclFaultTest, AHandlerOnTheDeviceGetsRowsThere) {
  OnDevice handler(handler_);
  Start(&handler);
  EXPECT_TRUE(Ask().ok());
  EXPECT_TRUE(Ask().ok());
  EXPECT_EQ(handler_.runs(), 2);
  EXPECT_EQ(fake_nccl::communicators(), 2);
  Stop();
}

TEST_F(NcclFaultTest, APairTakesNoMoreDeviceMemoryThanIsPlanned) {
  Start();
  const int64_t before = fake_nccl::device_bytes();
  int64_t most = 0;
  for (const int rows : {1, 9000, 16000, 16000}) {
    most = int64_t{rows} * kHidden * 4;
    TestCall call(++last_call_, DType::kF32, rows, kHidden, std::vector<std::vector<int32_t>>(rows, {3}));
    call.Send(*transport_, ShardId{0});
    while (!call.done()) transport_->Progress(absl::Milliseconds(10));
    ASSERT_TRUE(call.status().ok()) << call.status();
  }
  const int64_t each = (fake_nccl::device_bytes() - before) / 2;  // the router's and the shard's pair
  EXPECT_GE(each, 2 * most);
  EXPECT_LE(each, NcclPairBytesMax(most, most));
  Stop();
}

TEST_F(NcclFaultTest, WhatNeverJoinsIsGivenUpAtTheDeadline) {
  fake_nccl::NobodyJoins();
  options_.connect_timeout = absl::Milliseconds(200);
  Start();
  // It may run out before that, where the machine stands still for so long.
  absl::Status status;
  for (int i = 0; i < 20 && !absl::StrContains(status.message(), "still joining"); ++i) {
    status = Ask();
    ASSERT_TRUE(absl::IsUnavailable(status)) << "before the call's own time is over: " << status;
  }
  EXPECT_THAT(std::string(status.message()), HasSubstr("no connection within 200ms: nccl is still joining"));
  fake_nccl::Reset();
  EXPECT_TRUE(AskUntilAnswered().ok());
}

TEST_F(NcclFaultTest, JoiningThatFailsSaysWhy) {
  fake_nccl::JoiningFails();
  Start();
  const absl::Status status = Ask();
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("unhandled cuda error"));
  fake_nccl::Reset();
  EXPECT_TRUE(AskUntilAnswered().ok());
}

TEST_F(NcclFaultTest, RowsThatDoNotMoveEndTheConnectionNotTheProcess) {
  GiveUpRowsSoon();
  Start();
  ASSERT_TRUE(AskUntilAnswered().ok());
  const int runs = handler_.runs();
  fake_nccl::MovesStall();
  const absl::Status status = Ask();
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_EQ(handler_.runs(), runs);
  fake_nccl::Reset();
  EXPECT_TRUE(AskUntilAnswered().ok());
}

TEST_F(NcclFaultTest, ACallEndsAtItsDeadlineWhileItsRowsStall) {
  Start();
  ASSERT_TRUE(Ask().ok());
  fake_nccl::MovesStall();
  EXPECT_TRUE(absl::IsDeadlineExceeded(Ask(absl::Milliseconds(20))));
}

TEST_F(NcclFaultTest, DeviceMemoryIsNotToBeFreedWhileAMoveMayWaitForTheShard) {
  Start();
  ASSERT_TRUE(Ask().ok());
  EXPECT_TRUE(transport_->MayFreeDeviceMemory());
  fake_nccl::MovesStall();
  EXPECT_TRUE(absl::IsDeadlineExceeded(Ask(absl::Milliseconds(20))));
  EXPECT_FALSE(transport_->MayFreeDeviceMemory()) << "the call is over, its move is not";
  fake_nccl::Reset();
  for (const absl::Time until = absl::Now() + absl::Seconds(20); absl::Now() < until;) {
    transport_->Progress(absl::Milliseconds(1));
    if (transport_->MayFreeDeviceMemory()) break;
  }
  EXPECT_TRUE(transport_->MayFreeDeviceMemory());
  EXPECT_TRUE(Ask().ok());
}

TEST_F(NcclFaultTest, AnErrorThatNcclTellsOfLaterEndsTheConnection) {
  Start();
  ASSERT_TRUE(Ask().ok());
  fake_nccl::MovesFail();
  const absl::Status status = Ask();
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  fake_nccl::Reset();
  EXPECT_TRUE(AskUntilAnswered().ok());
}

TEST_F(NcclFaultTest, AWayThatDamagesRowsIsNotUsed) {
  fake_nccl::MovesDamage();
  Start();
  const absl::Status status = Ask();
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("does not bring back"));
  EXPECT_EQ(handler_.runs(), 0);
}

TEST_F(NcclFaultTest, AnotherVersionAtTheOtherEndIsRefused) {
  Start();
  DataPlaneRequest request;
  request.peer = "router-0";
  request.version_min = request.version_max = kWireVersion;
  request.nccl_version = 22809;
  const auto offer = server_->Connect(request);
  EXPECT_TRUE(absl::IsFailedPrecondition(offer.status())) << offer.status();
  EXPECT_THAT(std::string(offer.status().message()), HasSubstr("2.28.9"));
}

TEST_F(NcclFaultTest, OneGpuForBothEndsNeedsAVersionThatCanDoThat) {
  api_.version = 22809;
  server_options_.gpu = options_.gpu = "one";
  Start();
  EXPECT_THAT(std::string(Ask().message()), HasSubstr("2.30.0 or later"));
  Stop();
  options_.gpu = "two";
  Start();
  EXPECT_TRUE(Ask().ok());
}

TEST_F(NcclFaultTest, AnotherModelIsRefused) {
  options_.model_fingerprint = "another";
  Start();
  EXPECT_TRUE(absl::IsUnavailable(Ask()));
  EXPECT_EQ(fake_nccl::communicators(), 0);
}

TEST_F(NcclFaultTest, DrainAnswersWhatHasComeAndLeaves) {
  Start();
  ASSERT_TRUE(Ask().ok());
  server_->Drain(absl::Now() + absl::Seconds(5));
  EXPECT_TRUE(absl::IsUnavailable(Ask()));
}

// Whoever reaches the port of call headers and is no router that the control channel sent.
TEST_F(NcclFaultTest, StrangersAreCutOffAndRoutersServedOn) {
  Start();
  ASSERT_TRUE(Ask().ok());
  const auto address = SocketAddress::Parse(server_->address());
  ASSERT_TRUE(address.ok());
  WireHeader hello;
  hello.kind = WireKind::kHello;
  hello.connection = 1;  // one that was used
  hello.body_bytes = kTokenBytes;
  WireHeader call;  // before any greeting
  call.kind = WireKind::kCall;
  call.cols = 1;
  call.body_bytes = static_cast<uint64_t>(CallMetaBytes(0, 0));
  WireHeader nonsense = hello;
  nonsense.magic = 7;
  const std::vector<std::byte> payload(static_cast<size_t>(CallMetaBytes(0, 0)));
  for (const WireHeader& header : {hello, call, nonsense}) {
    auto lane = Lane::Connect(*address);
    ASSERT_TRUE(lane.ok()) << lane.status();
    (*lane)->Push(header, payload.data());
    absl::StatusOr<bool> came = false;
    Lane::Message answer;
    int answers = 0;
    for (const absl::Time until = absl::Now() + absl::Seconds(10); came.ok() && absl::Now() < until;) {
      (*lane)->Pump().IgnoreError();
      came = (*lane)->Next(kWireTextBytesMax, &answer);
      if (came.ok() && *came) ++answers;
      if (came.ok() && !*came) absl::SleepFor(absl::Milliseconds(1));
    }
    EXPECT_TRUE(absl::IsUnavailable(came.status())) << "not cut off: " << came.status();
    EXPECT_EQ(answers, header.kind == WireKind::kHello && header.magic == kWireMagic ? 1 : 0);
  }
  EXPECT_TRUE(Ask().ok());
  EXPECT_EQ(fake_nccl::communicators(), 2);
}

TEST_F(NcclFaultTest, ARouterBeyondThoseThatThereIsMemoryForIsRefusedUntilOneHasGone) {
  FakeClock clock;
  server_options_.routers_max = 1;
  server_options_.clock = &clock;
  options_.instance = 1;
  GiveUpRowsSoon();
  Start();
  ASSERT_TRUE(AskUntilAnswered().ok());
  const auto connect = [&](uint64_t instance) {
    DataPlaneRequest request;
    request.peer = "router";  // every router's name, where nobody gives them others
    request.version_min = request.version_max = kWireVersion;
    request.nccl_version = api_.version;
    request.instance = instance;
    return server_->Connect(request).status();
  };
  const absl::Status refused = connect(2);
  EXPECT_TRUE(absl::IsResourceExhausted(refused)) << refused;
  EXPECT_THAT(std::string(refused.message()), HasSubstr("1 attention service over NCCL"));
  EXPECT_THAT(std::string(refused.message()), HasSubstr("--nccl-routers"));
  // The one that is there connects anew: once while its place still stands, and once it has broken.
  EXPECT_TRUE(connect(options_.instance).ok());
  fake_nccl::MovesStall();
  EXPECT_FALSE(Ask().ok());
  fake_nccl::Reset();
  EXPECT_TRUE(AskUntilAnswered().ok());
  EXPECT_FALSE(connect(2).ok());
  // It goes, and its token that was never used runs out: another may come.
  transport_.reset();
  clock.Advance(absl::Seconds(11));
  absl::Status admitted;
  for (const absl::Time until = absl::Now() + absl::Seconds(10); absl::Now() < until;) {
    if (admitted = connect(2); admitted.ok()) break;
    absl::SleepFor(absl::Milliseconds(5));
  }
  EXPECT_TRUE(admitted.ok()) << admitted;
  EXPECT_FALSE(connect(options_.instance).ok());
  EXPECT_TRUE(connect(2).ok());
  Stop();
}

TEST_F(NcclFaultTest, IdsThatNobodyUsesDoNotPileUp) {
  FakeClock clock;
  server_options_.clock = &clock;
  Start();
  DataPlaneRequest request;
  request.peer = "router-0";
  request.version_min = request.version_max = kWireVersion;
  request.nccl_version = api_.version;
  std::string first;
  for (int i = 0; i < 64; ++i) {
    const auto offer = server_->Connect(request);
    ASSERT_TRUE(offer.ok()) << offer.status();
    if (i == 0) first = offer->nccl_id;
  }
  EXPECT_TRUE(absl::IsResourceExhausted(server_->Connect(request).status()));
  clock.Advance(absl::Seconds(11));
  const auto again = server_->Connect(request);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->nccl_id, first);
}

}  // namespace
}  // namespace conclave
