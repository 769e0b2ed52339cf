#include "moe/model/device/weight_uploader.h"

#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "moe/model/device/compute_target.h"
#include "moe/model/device/device_memory.h"
#include "moe/model/device/device_testing.h"
#include "moe/tensor/buffer.h"
#include "moe/tensor/weight_view.h"

namespace conclave {
namespace {

using ::testing::HasSubstr;

// A matrix of 4 x 12 with scales for blocks of 2 x `block_cols`.
absl::Status Upload(int32_t block_cols, WeightCode code = WeightCode::kPlain) {
  const HostTarget host = MakeHostTarget("f32");
  const MatBuffer values(code == WeightCode::kPlain ? DType::kF8E4M3 : DType::kU8, 4, 12);
  const MatBuffer scales(DType::kF32, 2, (12 + block_cols - 1) / block_cols);
  WeightView view;
  view.matrix = values.view();
  view.scales = scales.view();
  view.block_rows = 2;
  view.block_cols = block_cols;
  view.code = code;
  DeviceWeight target;
  WeightUploader uploader;
  uploader.Add(&target, {view});
  const absl::Status status = uploader.Run(*host.target->memory(), nullptr).status();
  EXPECT_EQ(status.ok(), target.data != nullptr);
  return status;
}

TEST(WeightUploader, TakesScaleBlocksOfWholeVectorsOrWholeRows) {
  for (const int32_t cols : {4, 8, 12, 14, 128}) EXPECT_TRUE(Upload(cols).ok()) << cols;
}

TEST(WeightUploader, NamesWhatKernelsWouldReadWrongly) {
  for (const int32_t cols : {1, 2, 6, 10}) {
    const absl::Status status = Upload(cols);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << cols;
    EXPECT_THAT(std::string(status.message()), HasSubstr(absl::StrCat("not for every ", cols, " (weight_block_size)")));
  }
  EXPECT_THAT(std::string(Upload(12, WeightCode::kInt8).message()), HasSubstr("packed INT4 or INT8"));
}

}  // namespace
}  // namespace conclave
