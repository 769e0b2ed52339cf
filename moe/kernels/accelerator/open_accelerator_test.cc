#include "moe/kernels/accelerator/open_accelerator.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace conclave {
namespace {

using ::testing::HasSubstr;

TEST(OpenAcceleratorTest, CpuNeedsNone) {
  const auto opened = OpenAccelerator("cpu");
  ASSERT_TRUE(opened.ok()) << opened.status();
  EXPECT_EQ(*opened, nullptr);
}

TEST(OpenAcceleratorTest, UnknownDevicesAreRefusedByName) {
  for (const char* device : {"", "gpu", "cuda:", "cuda:x", "cuda:-1", "cuda:64", "CUDA", "cuda0"}) {
    const absl::Status status = OpenAccelerator(device).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << device;
    EXPECT_THAT(status.message(), HasSubstr("--device: expected cpu, cuda or cuda:N"));
  }
}

// On a machine with a GPU and the library beside the test it opens; everywhere else a sentence says what is missing.
TEST(OpenAcceleratorTest, WhatIsMissingForCudaIsSaid) {
  const auto opened = OpenAccelerator("cuda:63");
  ASSERT_FALSE(opened.ok());
  EXPECT_EQ(opened.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(opened.status().message(), HasSubstr("--device cuda"));
}

}  // namespace
}  // namespace conclave
