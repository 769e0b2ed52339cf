#include "expert_service/row_memory.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "moe/model/device/device_testing.h"

namespace conclave {
namespace {

using ::testing::HasSubstr;

ModelSpec Spec() {
  ModelSpec spec;
  spec.hidden = 7168;
  spec.gate.top_k = 8;
  return spec;
}

TEST(NcclMemoryTest, EveryRouterHasRoomForItsLargestCallThereAndBack) {
  const HostTarget host = MakeHostTarget("bf16", int64_t{8} << 30);
  // 16,384 rows are 224 MiB, for which 256 are taken; results are no more than 512 MiB; outgrown pieces as much again.
  ASSERT_TRUE(ReserveNcclPairs(Spec(), DType::kBF16, 2, *host.target->memory()).ok());
  EXPECT_THAT(host.target->memory()->Plan(), HasSubstr("rows over nccl 3072.0 MiB"));
}

TEST(NcclMemoryTest, WhatDoesNotFitIsRefusedWithThePlanAndLeavesItAlone) {
  const HostTarget host = MakeHostTarget("bf16", int64_t{2} << 30);
  const absl::Status status = ReserveNcclPairs(Spec(), DType::kBF16, 2, *host.target->memory());
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()), HasSubstr("rows over nccl 3072.0 MiB"));
  EXPECT_TRUE(ReserveNcclPairs(Spec(), DType::kBF16, 1, *host.target->memory()).ok());
}

TEST(UcxMemoryTest, ARouterHasRoomForItsRowsAndTwiceItsResults) {
  const HostTarget host = MakeHostTarget("bf16", int64_t{8} << 30);
  // 256 MiB and twice 512, and half as much again for pieces that are outgrown.
  ASSERT_TRUE(ReserveUcxRows(Spec(), DType::kBF16, *host.target->memory()).ok());
  EXPECT_THAT(host.target->memory()->Plan(), HasSubstr("rows over ucx 1920.0 MiB"));
}

}  // namespace
}  // namespace conclave
