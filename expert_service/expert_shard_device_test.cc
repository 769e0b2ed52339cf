// A shard whose experts are on a device, over the accelerator of plain loops.
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "expert_service/expert_shard.h"
#include "expert_service/test_model.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "moe/model/device/device_testing.h"
#include "moe/tensor/buffer.h"

namespace conclave {
namespace {

using ::testing::HasSubstr;

class ExpertShardDeviceTest : public testing::Test {
 protected:
  ExpertShardDeviceTest() {
    ExpertShardOptions options;
    options.kernels = &host_.target->kernels();
    options.device = host_.target->memory();
    options.on_device_lost = [this](const absl::Status& status) { lost_.push_back(status); };
    auto shard = ExpertShard::Create(options, DemoModel());
    EXPECT_TRUE(shard.ok()) << shard.status();
    shard_ = *std::move(shard);
    call_.call_id = 1;
    call_.placement_epoch = kStaticPlacementEpoch;
    call_.layer = LayerId{3};
    call_.row_offsets = offsets_;
    call_.experts = experts_;
    call_.rows = rows_.view();
    for (int64_t i = 0; i < 3 * Hidden(); ++i) rows_.view().Row<float>(0)[i] = std::sin(static_cast<float>(i));
  }
  static int Hidden() { return DemoModel().spec().hidden; }
  // The results of the call with rows and results on the device, whose memory is this process's.
  absl::Status RunOnDevice(MatBuffer& out) {
    ExpertCall call = call_;
    MatView results = out.view();
    call.rows.device = results.device = Device::kCuda;
    return shard_->Run(call, results);
  }
  static bool SameRow(const MatBuffer& a, const MatBuffer& b, int64_t row) {
    return std::memcmp(a.view().RowBytes(row), b.view().RowBytes(row), Hidden() * sizeof(float)) == 0;
  }

  HostTarget host_ = MakeHostTarget("f32");
  std::vector<absl::Status> lost_;
  std::unique_ptr<ExpertShard> shard_;
  MatBuffer rows_{DType::kF32, 3, Hidden()};
  const std::vector<uint32_t> offsets_ = {0, 2, 2, 4};
  const std::vector<int32_t> experts_ = {0, 9, 1, 9};
  ExpertCall call_;
};

TEST_F(ExpertShardDeviceTest, RowsOnTheDeviceGiveTheBitsOfRowsThatAreCopiedThere) {
  EXPECT_TRUE(shard_->TakesDeviceRows());
  MatBuffer copied(DType::kF32, 4, Hidden()), there(DType::kF32, 4, Hidden());
  ASSERT_TRUE(shard_->Run(call_, copied.view()).ok());
  const absl::Status status = RunOnDevice(there);
  ASSERT_TRUE(status.ok()) << status;
  for (int64_t row = 0; row < 4; ++row) EXPECT_TRUE(SameRow(copied, there, row)) << row;
  EXPECT_GT(std::abs(there.view().Row<float>(0)[0]), 0.0f);
}

TEST_F(ExpertShardDeviceTest, ResultsThatComeInPiecesHaveTheBitsOfThoseThatComeAtOnce) {
  constexpr int kRows = 280;  // results of more than one piece
  MatBuffer rows(DType::kF32, kRows, Hidden());
  for (int64_t i = 0; i < kRows * Hidden(); ++i) rows.view().Row<float>(0)[i] = std::sin(static_cast<float>(i));
  std::vector<uint32_t> offsets(kRows + 1);
  for (int i = 0; i <= kRows; ++i) offsets[i] = static_cast<uint32_t>(i);
  const std::vector<int32_t> experts(kRows, 9);
  call_.rows = rows.view();
  call_.row_offsets = offsets;
  call_.experts = experts;
  MatBuffer whole(DType::kF32, kRows, Hidden()), pieces(DType::kF32, kRows, Hidden());
  ASSERT_TRUE(shard_->Run(call_, whole.view()).ok());
  host_.accelerator->BeLazy();
  int times = 0;
  const absl::Status status = shard_->RunInPieces(call_, pieces.view(), [&](int64_t bytes) {
    ++times;
    EXPECT_EQ(std::memcmp(whole.view().data, pieces.view().data, static_cast<size_t>(bytes)), 0) << bytes;
  });
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_GT(times, 0);
  EXPECT_EQ(std::memcmp(whole.view().data, pieces.view().data, static_cast<size_t>(whole.bytes())), 0);
}

TEST_F(ExpertShardDeviceTest, RowsAndResultsInDifferentPlacesAreRefused) {
  MatBuffer out(DType::kF32, 4, Hidden());
  MatView results = out.view();
  results.device = Device::kCuda;
  EXPECT_TRUE(absl::IsInvalidArgument(shard_->Run(call_, results)));
}

TEST_F(ExpertShardDeviceTest, ARowOnTheDeviceThatIsNotFiniteSpoilsItsOwnResultsAlone) {
  MatBuffer healthy(DType::kF32, 4, Hidden()), beside(DType::kF32, 4, Hidden());
  ASSERT_TRUE(RunOnDevice(healthy).ok());
  rows_.view().Row<float>(0)[5] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_THAT(std::string(shard_->Run(call_, beside.view()).message()), HasSubstr("row 0"));  // seen on the host
  ASSERT_TRUE(RunOnDevice(beside).ok());
  EXPECT_TRUE(std::isnan(beside.view().Row<float>(0)[0]));
  for (int64_t row = 2; row < 4; ++row) EXPECT_TRUE(SameRow(healthy, beside, row)) << row;
}

TEST_F(ExpertShardDeviceTest, AShardThatStartsWithoutExpertsComputesThoseThatItTakesOver) {
  HostTarget host = MakeHostTarget("f32");
  ExpertShardOptions options;
  options.kernels = &host.target->kernels();
  options.device = host.target->memory();
  options.shard_count = 40;  // more than the model has experts
  auto spare = ExpertShard::Create(options, DemoModel());
  ASSERT_TRUE(spare.ok()) << spare.status();
  ASSERT_EQ((*spare)->store().experts(), 0);
  const auto loaded = (*spare)->LoadExperts({{LayerId{3}, {ExpertId{0}, ExpertId{1}, ExpertId{9}}}});
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  MatBuffer want(DType::kF32, 4, Hidden()), got(DType::kF32, 4, Hidden());
  ASSERT_TRUE(shard_->Run(call_, want.view()).ok());
  call_.placement_epoch = loaded->placement_epoch;
  const absl::Status status = (*spare)->Run(call_, got.view());
  ASSERT_TRUE(status.ok()) << status;
  for (int64_t row = 0; row < 4; ++row) EXPECT_TRUE(SameRow(want, got, row)) << row;
}

TEST_F(ExpertShardDeviceTest, AnExpertThatIsLetGoLeavesTheOthersBitsAlone) {
  MatBuffer before(DType::kF32, 4, Hidden()), after(DType::kF32, 4, Hidden());
  ASSERT_TRUE(shard_->Run(call_, before.view()).ok());
  const auto left = shard_->UnloadExperts({{LayerId{3}, {ExpertId{2}, ExpertId{3}}}}, shard_->Describe().revision);
  ASSERT_TRUE(left.ok()) << left.status();
  call_.placement_epoch = left->placement_epoch;
  ASSERT_TRUE(shard_->Run(call_, after.view()).ok());
  for (int64_t row = 0; row < 4; ++row) EXPECT_TRUE(SameRow(before, after, row)) << row;
  const std::vector<int32_t> gone = {0, 2, 1, 9};
  call_.experts = gone;
  EXPECT_EQ(shard_->Run(call_, after.view()).code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(ExpertShardDeviceTest, ALostDeviceIsToldOnceAndItsCallsAreUnavailable) {
  MatBuffer out(DType::kF32, 4, Hidden());
  ASSERT_TRUE(shard_->Run(call_, out.view()).ok());
  host_.accelerator->Lose();
  for (int i = 0; i < 2; ++i) {
    const absl::Status status = shard_->Run(call_, out.view());
    EXPECT_TRUE(absl::IsUnavailable(status)) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("the device is lost"));
  }
  EXPECT_EQ(lost_.size(), 1u);
}

}  // namespace
}  // namespace conclave
