#include "moe/kernels/accelerator/piecewise_copy.h"

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "gtest/gtest.h"
#include "moe/kernels/accelerator/accelerator.h"
#include "moe/kernels/accelerator/accelerator_testing.h"
#include "moe/kernels/accelerator/host_accelerator.h"

namespace conclave {
namespace {

// Bytes on the device and the memory that they go to.
struct Copy {
  explicit Copy(Accelerator& device, int64_t bytes) : accelerator(device), sent(bytes), host(bytes, std::byte{0xab}) {
    for (int64_t i = 0; i < bytes; ++i) sent[i] = static_cast<std::byte>(i * 2654435761u >> 13);
    memory = *accelerator.Allocate(bytes + 1);
    accelerator.CopyIn(memory, sent.data(), bytes);
  }
  ~Copy() { accelerator.Free(memory); }
  bool Came(int64_t bytes) const { return std::equal(host.begin(), host.begin() + bytes, sent.begin()); }
  Accelerator& accelerator;
  std::vector<std::byte> sent, host;
  void* memory = nullptr;
};

TEST(PiecewiseCopy, WhatHasLandedIsThereAndAllOfItAtTheEnd) {
  const auto accelerator = TestAccelerator(std::getenv("CONCLAVE_TEST_DEVICE"), /*lazy=*/true);
  auto out = PiecewiseCopy::Create(*accelerator);
  ASSERT_TRUE(out.ok()) << out.status();
  constexpr int64_t kPiece = PiecewiseCopy::kPieceBytesMin;
  for (const int64_t bytes : {int64_t{0}, int64_t{100}, kPiece, kPiece + 1, 5 * kPiece + 7, 33 * kPiece + 5}) {
    Copy copy(*accelerator, bytes);
    int64_t landed = 0;
    int times = 0;
    const absl::Status status = out->Out(copy.host.data(), copy.memory, bytes, [&](int64_t so_far) {
      EXPECT_GE(so_far - landed, kPiece);
      EXPECT_LT(so_far, bytes);
      landed = so_far;
      ++times;
      EXPECT_TRUE(copy.Came(so_far)) << so_far << " of " << bytes;
    });
    ASSERT_TRUE(status.ok()) << status;
    EXPECT_TRUE(copy.Came(bytes)) << bytes;
    EXPECT_LT(times, PiecewiseCopy::kPiecesMax);
    EXPECT_EQ(times > 0, bytes > kPiece);
  }
}

TEST(PiecewiseCopy, GoesAtOnceWhereNobodyWantsPieces) {
  const auto accelerator = TestAccelerator(std::getenv("CONCLAVE_TEST_DEVICE"), /*lazy=*/true);
  auto out = PiecewiseCopy::Create(*accelerator);
  ASSERT_TRUE(out.ok()) << out.status();
  Copy copy(*accelerator, 4 * PiecewiseCopy::kPieceBytesMin);
  ASSERT_TRUE(out->Out(copy.host.data(), copy.memory, 4 * PiecewiseCopy::kPieceBytesMin, nullptr).ok());
  EXPECT_TRUE(copy.Came(4 * PiecewiseCopy::kPieceBytesMin));
}

TEST(PiecewiseCopy, EndsWithTheDevicesError) {
  const auto accelerator = HostAccelerator::Create();
  auto out = PiecewiseCopy::Create(*accelerator);
  ASSERT_TRUE(out.ok()) << out.status();
  Copy copy(*accelerator, 4 * PiecewiseCopy::kPieceBytesMin);
  int times = 0;
  const absl::Status status =
      out->Out(copy.host.data(), copy.memory, 4 * PiecewiseCopy::kPieceBytesMin, [&](int64_t) {
        ++times;
        accelerator->Lose();
      });
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_EQ(times, 1);
}

}  // namespace
}  // namespace conclave
