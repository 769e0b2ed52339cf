#include "moe/transport/dial/staged_calls.h"

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/clock.h"
#include "gtest/gtest.h"
#include "moe/base/ids.h"
#include "moe/kernels/accelerator/host_accelerator.h"
#include "moe/tensor/mat_view.h"
#include "moe/transport/fake_expert_handler.h"
#include "moe/transport/inproc/inproc_transport.h"
#include "moe/transport/transport.h"

namespace conclave {
namespace {

constexpr int kHidden = 8;

// A router with one row on a device, and a shard that takes rows in this process's memory alone.
class StagedCallsTest : public testing::Test {
 protected:
  // Sends the row to expert 3, and waits until that is done.
  void Call() {
    call_.call_id = 1;
    call_.placement_epoch = 1;
    call_.rows = MatView{row_, DType::kF32, Device::kCuda, 1, kHidden, kHidden};
    call_.row_offsets = offsets_;
    call_.experts = experts_;
    call_.deadline = absl::Now() + absl::Seconds(30);
    staged_.Call(*over_, ShardId{0}, call_, MatView{out_, DType::kF32, Device::kCuda, 1, kHidden, kHidden},
                 [this](const absl::Status& status) {
                   status_ = status;
                   ++times_done_;
                 });
    EXPECT_EQ(times_done_, 0) << "Done comes in Progress";
    while (times_done_ == 0) over_->Progress(absl::Seconds(1));
  }

  const std::unique_ptr<HostAccelerator> device_ = HostAccelerator::Create();
  FakeExpertHandler handler_{"one", kHidden, /*experts=*/8};
  const std::unique_ptr<Transport> over_ = std::make_unique<InprocTransport>(std::vector<ExpertHandler*>{&handler_});
  StagedCalls staged_{*device_->NewStream()};
  float* const row_ = static_cast<float*>(*device_->Allocate(kHidden * sizeof(float)));
  float* const out_ = static_cast<float*>(*device_->Allocate(kHidden * sizeof(float)));
  const std::vector<uint32_t> offsets_ = {0, 1};
  const std::vector<int32_t> experts_ = {3};
  ExpertCall call_;
  absl::Status status_;
  int times_done_ = 0;
};

TEST_F(StagedCallsTest, RowsLeaveTheDeviceAndResultsComeToIt) {
  for (int i = 0; i < kHidden; ++i) row_[i] = static_cast<float>(i);
  Call();
  EXPECT_TRUE(status_.ok()) << status_;
  for (int i = 0; i < kHidden; ++i) EXPECT_EQ(out_[i], FakeExpertValue(row_[i], LayerId{0}, 3)) << i;
}

TEST_F(StagedCallsTest, ALostDeviceEndsTheCall) {
  device_->Lose();
  Call();
  EXPECT_TRUE(absl::IsUnavailable(status_)) << status_;
  EXPECT_EQ(times_done_, 1);
}

TEST_F(StagedCallsTest, WhatTheShardSaysComesThroughAndLeavesResultsAlone) {
  out_[0] = 77;
  handler_.FailWith(absl::ResourceExhaustedError("full"));
  Call();
  EXPECT_EQ(status_.code(), absl::StatusCode::kResourceExhausted) << status_;
  EXPECT_EQ(out_[0], 77);
}

}  // namespace
}  // namespace conclave
