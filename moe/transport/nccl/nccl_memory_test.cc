// Where calls over NCCL take their rows from and put their results, and until when.
#include <algorithm>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "moe/base/ids.h"
#include "moe/kernels/accelerator/device_stream.h"
#include "moe/kernels/accelerator/host_accelerator.h"
#include "moe/tensor/buffer.h"
#include "moe/transport/fake_expert_handler.h"
#include "moe/transport/nccl/fake_nccl.h"
#include "moe/transport/nccl/nccl_testing.h"
#include "moe/transport/transport.h"
#include "moe/transport/transport_test_suite.h"

namespace conclave {

GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(TransportTest);  // nccl_transport_test runs it

namespace {

using NcclMemoryTest = NcclFaultTest;

enum class Memory { kPageable, kPinned, kDevice };  // that of the fake's device is ours

// One row to one expert, and its result, in such memory.
struct StraightCall {
  StraightCall(uint64_t id, Memory where)
      : stream(*fake_nccl::Streams()()),
        memory([this](int64_t bytes) {
          return std::shared_ptr<void>(*stream->AllocateHost(bytes), [this](void* piece) { stream->FreeHost(piece); });
        }),
        rows(DType::kF32, 1, kCols, where == Memory::kPinned ? memory : nullptr),
        out(DType::kF32, 1, kCols, where == Memory::kPinned ? memory : nullptr),
        device(where == Memory::kDevice ? Device::kCuda : Device::kCpu) {
    call.call_id = id;
    call.rows = rows.view();
    call.rows.device = device;
    call.row_offsets = offsets;
    call.experts = experts;
    Fill(rows, 1);
    Fill(out, -1);
  }
  static void Fill(MatBuffer& buffer, float value) { std::fill_n(buffer.view().Row<float>(0), kCols, value); }
  bool OutIs(float value) {
    const float* const row = out.view().Row<float>(0);
    return std::all_of(row, row + kCols, [value](float got) { return got == value; });
  }
  void Send(Transport& transport) {
    MatView to = out.view();
    to.device = device;
    transport.Call(ShardId{0}, call, to, [this](const absl::Status& ended) { status = ended; });
  }
  void Await(Transport& transport) {
    const absl::Time until = absl::Now() + absl::Seconds(20);
    while (!status.has_value() && absl::Now() < until) transport.Progress(absl::Milliseconds(10));
    ASSERT_TRUE(status.has_value());
  }

  static constexpr int kCols = 32;
  std::unique_ptr<DeviceStream> stream;
  HostMemory memory;
  MatBuffer rows, out;
  const Device device;
  std::vector<uint32_t> offsets = {0, 1};
  std::vector<int32_t> experts = {3};
  ExpertCall call;
  std::optional<absl::Status> status;
};

TEST_F(NcclMemoryTest, PinnedRowsAndThoseOnTheDeviceAreTakenFromWhereTheyLie) {
  Start();
  ASSERT_TRUE(Ask().ok());
  EXPECT_EQ(transport_->rows_device(), Device::kCuda);
  for (const Memory where : {Memory::kPageable, Memory::kPinned, Memory::kDevice}) {
    StraightCall call(++last_call_, where);
    call.Send(*transport_);
    StraightCall::Fill(call.rows, 2);  // the stream has not come to its copy yet
    call.Await(*transport_);
    EXPECT_TRUE(call.status->ok()) << *call.status;
    EXPECT_TRUE(call.OutIs(FakeExpertValue(where == Memory::kPageable ? 1 : 2, LayerId{0}, 3)));
  }
  Stop();
}

TEST_F(NcclMemoryTest, RowsOnTheDeviceAreTakenOnceTheQueueHasMadeThem) {
  Start();
  const auto accelerator = HostAccelerator::Create();
  accelerator->BeLazy();
  const auto made = accelerator->NewEvent();
  ASSERT_TRUE(made.ok()) << made.status();
  StraightCall call(++last_call_, Memory::kDevice);
  const std::vector<float> source(StraightCall::kCols, 2);
  accelerator->CopyIn(call.rows.view().data, source.data(), StraightCall::kCols * int64_t{sizeof(float)});
  accelerator->Record(**made);
  call.call.ready = made->get();
  call.Send(*transport_);
  call.Await(*transport_);
  EXPECT_TRUE(call.status->ok()) << *call.status;
  EXPECT_TRUE(call.OutIs(FakeExpertValue(2, LayerId{0}, 3)));
  Stop();
}

TEST_F(NcclMemoryTest, RowsOnTheDeviceWithGapsAreRefused) {
  Start();
  ASSERT_TRUE(Ask().ok());
  StraightCall call(++last_call_, Memory::kDevice);
  call.call.rows.cols = call.call.rows.stride / 2;
  call.out = MatBuffer(DType::kF32, 1, StraightCall::kCols / 2);
  call.Send(*transport_);
  call.Await(*transport_);
  EXPECT_TRUE(absl::IsInvalidArgument(*call.status)) << *call.status;
  Stop();
}

// Notes the first value of each call's rows.
class Noting final : public ExpertHandler {
 public:
  explicit Noting(ExpertHandler& handler) : handler_(handler) {}
  ShardDescription Describe() const override { return handler_.Describe(); }
  absl::Status Run(const ExpertCall& call, MatView out) override {
    std::lock_guard<std::mutex> lock(mutex_);
    values_.push_back(call.rows.rows > 0 ? call.rows.Row<float>(0)[0] : 0);
    return handler_.Run(call, out);
  }
  std::vector<float> values() const {
    std::lock_guard<std::mutex> lock(mutex_);
    return values_;
  }

 private:
  ExpertHandler& handler_;
  mutable std::mutex mutex_;
  std::vector<float> values_;  // guarded by mutex_
};

// They may be another call's by then, or nobody's.
TEST_F(NcclMemoryTest, RowsOnTheDeviceAreNeverReadOnceTheirCallHasEnded) {
  Noting handler(handler_);
  Start(&handler);
  ASSERT_TRUE(Ask().ok());
  fake_nccl::CopiesTake(50);
  const auto spoilt = [&](StraightCall& call) {
    call.Await(*transport_);
    StraightCall::Fill(call.rows, 77);
    for (const absl::Time until = absl::Now() + absl::Seconds(10); absl::Now() < until;) {
      transport_->Progress(absl::Milliseconds(1));
      if (!handler.values().empty() && handler.values().back() == 1) break;
    }
    ASSERT_TRUE(Ask().ok());
    const std::vector<float> seen = handler.values();
    EXPECT_EQ(std::count(seen.begin(), seen.end(), 77.0f), 0);
  };
  StraightCall taken_back(++last_call_, Memory::kDevice);
  taken_back.Send(*transport_);
  transport_->Cancel(taken_back.call.call_id);
  spoilt(taken_back);
  EXPECT_TRUE(absl::IsCancelled(*taken_back.status)) << *taken_back.status;
  StraightCall late(++last_call_, Memory::kDevice);
  late.call.deadline = absl::Now() - absl::Seconds(1);
  late.Send(*transport_);
  spoilt(late);
  EXPECT_TRUE(absl::IsDeadlineExceeded(*late.status)) << *late.status;
  Stop();
}

// Computes on the device, in a queue that knows nothing of the pair's.
class OnDevice final : public ExpertHandler {
 public:
  explicit OnDevice(ExpertHandler& handler) : handler_(handler) {}
  ShardDescription Describe() const override { return handler_.Describe(); }
  bool TakesDeviceRows() const override { return true; }
  absl::Status Run(const ExpertCall& call, MatView out) override {
    EXPECT_TRUE(fake_nccl::Given(call.rows.data));
    EXPECT_TRUE(fake_nccl::Given(out.data));
    ExpertCall here = call;
    here.rows.device = out.device = Device::kCpu;
    return handler_.Run(here, out);
  }

 private:
  ExpertHandler& handler_;
};

TEST_F(NcclMemoryTest, AShardsQueueGetsMemoryThatThePairsHasComeTo) {
  OnDevice handler(handler_);
  Start(&handler);
  EXPECT_TRUE(Ask().ok());
  EXPECT_EQ(handler_.runs(), 1);
  Stop();
}

TEST_F(NcclMemoryTest, ResultsNeverLandInMemoryOfACallThatHasEnded) {
  Start();
  ASSERT_TRUE(Ask().ok());
  fake_nccl::CopiesTake(5);
  for (const Memory where : {Memory::kPinned, Memory::kDevice}) {
    int cancelled = 0, answered = 0;
    for (int patience = 0; patience < 400 && answered < 30; ++patience) {
      StraightCall call(++last_call_, where);
      call.Send(*transport_);
      for (int i = 0; i < patience && !call.status.has_value(); ++i) transport_->Progress(absl::ZeroDuration());
      transport_->Cancel(call.call.call_id);
      call.Await(*transport_);
      if (!call.status->ok()) {
        EXPECT_EQ(call.status->code(), absl::StatusCode::kCancelled) << *call.status;
        StraightCall::Fill(call.out, -2);  // it is the caller's again
        ++cancelled;
      } else {
        ++answered;
      }
      ASSERT_TRUE(Ask().ok());  // behind which nothing of the other call is left
      ASSERT_TRUE(call.OutIs(call.status->ok() ? FakeExpertValue(1, LayerId{0}, 3) : -2)) << "patience " << patience;
    }
    EXPECT_GT(cancelled, 0);
    EXPECT_GT(answered, 0);
  }
  Stop();
}

}  // namespace
}  // namespace conclave
