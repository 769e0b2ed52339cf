#include "moe/transport/faulty/faulty_transport.h"

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "gtest/gtest.h"
#include "moe/transport/fake_expert_handler.h"
#include "moe/transport/inproc/inproc_transport.h"
#include "moe/transport/transport_test_suite.h"

namespace conclave {
namespace {

// With no faults asked for, it must be as good as what it wraps.
class FaultlessHarness final : public TransportHarness {
 public:
  explicit FaultlessHarness(std::vector<ExpertHandler*> handlers)
      : handlers_(handlers), inner_(std::move(handlers)), transport_(inner_, FaultyOptions{}) {}
  Transport& transport() override { return transport_; }
  void Kill(ShardId shard) override { inner_.Disconnect(shard); }
  void Revive(ShardId shard) override { inner_.Connect(shard, handlers_[Value(shard)]); }

 private:
  std::vector<ExpertHandler*> handlers_;
  InprocTransport inner_;
  FaultyTransport transport_;
};

std::unique_ptr<TransportHarness> NewFaultlessHarness(std::vector<ExpertHandler*> handlers) {
  return std::make_unique<FaultlessHarness>(std::move(handlers));
}

INSTANTIATE_TEST_SUITE_P(Faultless, TransportTest, testing::Values(HarnessFactory(&NewFaultlessHarness)));

class FaultyTransportTest : public testing::Test {
 protected:
  std::unique_ptr<TestCall> Run(FaultyTransport& transport, absl::Duration timeout = absl::Seconds(20)) {
    auto call = std::make_unique<TestCall>(next_id_++, DType::kF32, 3, 8, std::vector<std::vector<int32_t>>{{0, 2}});
    call->Send(transport, ShardId{0}, timeout);
    while (!call->done()) transport.Progress(absl::Seconds(1));
    return call;
  }
  FakeExpertHandler handler_{"fake-0", 8, 4};
  InprocTransport inner_{{&handler_}};
  uint64_t next_id_ = 1;
};

TEST_F(FaultyTransportTest, ADroppedRequestNeverReachesTheShard) {
  FaultyOptions options;
  options.drop_request = 1;
  FaultyTransport transport(inner_, options);
  const auto call = Run(transport, absl::Milliseconds(20));
  EXPECT_EQ(call->status().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_TRUE(call->OutIsUntouched());
  EXPECT_EQ(handler_.runs(), 0);
}

TEST_F(FaultyTransportTest, ADroppedReplyWasRun) {
  FaultyOptions options;
  options.drop_reply = 1;
  FaultyTransport transport(inner_, options);
  const auto call = Run(transport, absl::Milliseconds(50));
  EXPECT_EQ(call->status().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_TRUE(call->OutIsUntouched());
  for (int i = 0; i < 1000 && handler_.runs() == 0; ++i) transport.Progress(absl::Milliseconds(10));
  EXPECT_EQ(handler_.runs(), 1);
}

TEST_F(FaultyTransportTest, ADelayedReplyMayComeTooLate) {
  FaultyOptions options;
  options.delay = 1;
  options.delay_max = absl::Hours(1);
  FaultyTransport transport(inner_, options);
  const auto call = Run(transport, absl::Milliseconds(50));
  EXPECT_EQ(call->status().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_TRUE(call->OutIsUntouched());
}

TEST_F(FaultyTransportTest, ADuplicateIsDroppedAfterTheFirstReply) {
  FaultyOptions options;
  options.duplicate = 1;
  FaultyTransport transport(inner_, options);
  const auto call = Run(transport);
  EXPECT_TRUE(call->status().ok() && call->OutIsRight());
  call->FillOut();
  for (int i = 0; i < 200 && transport.counts().replies_unwanted == 0; ++i) transport.Progress(absl::Milliseconds(10));
  EXPECT_EQ(transport.counts().replies_unwanted, 1);
  EXPECT_EQ(call->times_done(), 1);
  EXPECT_TRUE(call->OutIsUntouched());
}

TEST_F(FaultyTransportTest, CorruptionIsNoticedOrSilentAsAsked) {
  FaultyOptions options;
  options.corrupt_status = 1;
  FaultyTransport noticed(inner_, options);
  const auto damaged = Run(noticed);
  EXPECT_EQ(damaged->status().code(), absl::StatusCode::kDataLoss);
  EXPECT_TRUE(damaged->OutIsUntouched());

  options.corrupt_status = 0;
  options.corrupt_bytes = 1;
  FaultyTransport silent(inner_, options);
  const auto wrong = Run(silent);
  EXPECT_TRUE(wrong->status().ok());
  EXPECT_FALSE(wrong->OutIsRight());

  options.checksum = true;
  FaultyTransport checked(inner_, options);
  const auto caught = Run(checked);
  EXPECT_EQ(caught->status().code(), absl::StatusCode::kDataLoss);
  EXPECT_TRUE(caught->OutIsUntouched());
}

TEST_F(FaultyTransportTest, TheSameSeedGivesTheSameFaults) {
  const auto outcomes = [&](uint64_t seed) {
    FaultyOptions options;
    options.seed = seed;
    options.corrupt_status = 0.5;
    options.duplicate = 0.3;
    FaultyTransport transport(inner_, options);
    std::string codes;
    for (int i = 0; i < 64; ++i) codes += Run(transport)->status().ok() ? '.' : 'x';
    return codes;
  };
  EXPECT_EQ(outcomes(1), outcomes(1));
  EXPECT_NE(outcomes(1), outcomes(2));
}

TEST_F(FaultyTransportTest, EveryCallEndsOnceUnderAllFaultsTogether) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    FaultyOptions options;
    options.seed = seed;
    options.drop_request = options.drop_reply = 0.05;
    options.delay = options.duplicate = 0.3;
    options.corrupt_status = 0.1;
    FaultyTransport transport(inner_, options);
    std::vector<std::unique_ptr<TestCall>> calls;
    for (int i = 0; i < 40; ++i) {
      calls.push_back(
          std::make_unique<TestCall>(next_id_++, DType::kF32, 2, 8, std::vector<std::vector<int32_t>>{{1}}));
      calls.back()->Send(transport, ShardId{0}, absl::Milliseconds(100));
    }
    const auto all_done = [&] {
      for (const auto& call : calls) {
        if (!call->done()) return false;
      }
      return true;
    };
    while (!all_done()) transport.Progress(absl::Milliseconds(20));
    transport.Progress(absl::Milliseconds(10));
    for (const auto& call : calls) {
      EXPECT_EQ(call->times_done(), 1);
      EXPECT_TRUE(call->status().ok() ? call->OutIsRight() : call->OutIsUntouched());
    }
  }
}

}  // namespace
}  // namespace conclave
