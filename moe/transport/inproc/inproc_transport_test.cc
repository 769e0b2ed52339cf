#include "moe/transport/inproc/inproc_transport.h"

#include <memory>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "moe/transport/transport_test_suite.h"

namespace conclave {
namespace {

class InprocHarness final : public TransportHarness {
 public:
  explicit InprocHarness(std::vector<ExpertHandler*> handlers) : handlers_(handlers), transport_(std::move(handlers)) {}
  Transport& transport() override { return transport_; }
  void Kill(ShardId shard) override { transport_.Disconnect(shard); }
  void Revive(ShardId shard) override { transport_.Connect(shard, handlers_[Value(shard)]); }

 private:
  std::vector<ExpertHandler*> handlers_;
  InprocTransport transport_;
};

std::unique_ptr<TransportHarness> NewInprocHarness(std::vector<ExpertHandler*> handlers) {
  return std::make_unique<InprocHarness>(std::move(handlers));
}

INSTANTIATE_TEST_SUITE_P(Inproc, TransportTest, testing::Values(HarnessFactory(&NewInprocHarness)));

TEST(InprocTransport, TakesItsDeadlinesFromTheClockItIsGiven) {
  FakeClock clock;
  FakeExpertHandler handler("fake-0", 8, 4);
  handler.Hang();
  InprocTransport transport({&handler}, &clock);
  TestCall call(1, DType::kF32, 1, 8, {{0}});
  call.call().deadline = clock.Now() + absl::Hours(2);
  absl::Status status;
  bool done = false;
  transport.Call(ShardId{0}, call.call(), call.out(), [&](const absl::Status& s) { status = s, done = true; });
  EXPECT_EQ(transport.Progress(absl::Milliseconds(10)), 0);
  clock.Advance(absl::Hours(2));
  EXPECT_EQ(transport.Progress(absl::ZeroDuration()), 1);
  EXPECT_TRUE(done);
  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded);
  handler.Resume();
}

}  // namespace
}  // namespace conclave
