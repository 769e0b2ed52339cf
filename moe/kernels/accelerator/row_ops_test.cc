// Rows that are moved and flagged on an accelerator, against what they were made of. On a machine with a GPU
// CONCLAVE_TEST_DEVICE=cuda runs it there, else the host accelerator is lazy.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "gtest/gtest.h"
#include "moe/kernels/accelerator/accelerator.h"
#include "moe/kernels/accelerator/accelerator_testing.h"
#include "moe/kernels/accelerator/host_accelerator.h"
#include "moe/tensor/dtype.h"

namespace conclave {
namespace {

class RowOpsTest : public testing::Test {
 protected:
  void SetUp() override {
    device_ = TestAccelerator(std::getenv("CONCLAVE_TEST_DEVICE"), /*lazy=*/true);
    ASSERT_NE(device_, nullptr);
  }
  ~RowOpsTest() override {
    for (void* memory : memory_) device_->Free(memory);
    for (void* memory : pinned_) device_->FreeHost(memory);
  }

  std::byte* Device(int64_t bytes) {
    auto memory = device_->Allocate(bytes);
    EXPECT_TRUE(memory.ok()) << memory.status();
    memory_.push_back(*memory);
    return static_cast<std::byte*>(*memory);
  }
  std::byte* Pinned(int64_t bytes) {
    auto memory = device_->AllocateHost(bytes);
    EXPECT_TRUE(memory.ok()) << memory.status();
    pinned_.push_back(*memory);
    return static_cast<std::byte*>(*memory);
  }
  template <typename T>
  T* CopiedIn(const std::vector<T>& values) {
    const auto bytes = static_cast<int64_t>(values.size() * sizeof(T));
    std::byte* const memory = Device(bytes);
    device_->CopyIn(memory, values.data(), bytes);
    EXPECT_TRUE(device_->Synchronize().ok());
    return reinterpret_cast<T*>(memory);
  }
  template <typename T>
  std::vector<T> CopiedOut(const void* from, int64_t count) {
    std::vector<T> values(count);
    device_->CopyOut(values.data(), from, count * static_cast<int64_t>(sizeof(T)));
    EXPECT_TRUE(device_->Synchronize().ok());
    return values;
  }

  std::unique_ptr<Accelerator> device_;
  std::vector<void*> memory_, pinned_;
  std::mt19937 random_{7};
};

TEST_F(RowOpsTest, GathersRowsOfAnyLengthFromAnywhere) {
  for (const int64_t row_bytes : {2, 6, 32, 46, 4096, 14336, 28672}) {
    for (const int64_t rows : {1, 3, 700}) {
      constexpr int64_t kSources = 37;
      std::vector<uint8_t> source(kSources * row_bytes);
      for (uint8_t& byte : source) byte = static_cast<uint8_t>(random_());
      const uint8_t* const from = CopiedIn(source);
      const uint8_t* const alone = CopiedIn(std::vector<uint8_t>(row_bytes, 0xff));
      std::byte* const to = Device((rows + 1) * row_bytes);
      const std::vector<uint8_t> poison((rows + 1) * row_bytes, 0x5a);
      device_->CopyIn(to, poison.data(), static_cast<int64_t>(poison.size()));
      auto** const table = reinterpret_cast<const void**>(Pinned(rows * int64_t{sizeof(void*)}));
      std::vector<int64_t> which(rows);
      for (int64_t row = 0; row < rows; ++row) {
        which[row] = static_cast<int64_t>(random_() % (kSources + 1));
        table[row] = which[row] == kSources ? alone : from + which[row] * row_bytes;
      }
      GatherRowsArgs gather;
      gather.from = table;
      gather.to = to;
      gather.rows = rows;
      gather.row_bytes = row_bytes;
      device_->GatherRows(gather);
      const auto got = CopiedOut<uint8_t>(to, (rows + 1) * row_bytes);
      for (int64_t i = 0; i < rows * row_bytes; ++i) {
        const int64_t source_row = which[i / row_bytes];
        const uint8_t want = source_row == kSources ? 0xff : source[source_row * row_bytes + i % row_bytes];
        ASSERT_EQ(got[i], want) << row_bytes << " bytes a row, row " << i / row_bytes;
      }
      for (int64_t i = rows * row_bytes; i < (rows + 1) * row_bytes; ++i) ASSERT_EQ(got[i], 0x5a) << "beyond the end";
    }
  }
}

// A norm's weight may take a row out of range that was finite, and rounding may.
TEST_F(RowOpsTest, ASumOrANormThatIsNotFiniteIsAFaultOfItsRowAlone) {
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN(), kInfinity = std::numeric_limits<float>::infinity();
  for (const int64_t cols : {3, 8, 512}) {
    // Row 0 is sound, 1 to 3 hold what is not finite, 4 leaves bfloat16's range when its norm is rounded, 5 float32's,
    // 6 had a fault before.
    constexpr int64_t kRows = 7;
    std::vector<float> acc(kRows * cols, 0.5f), y(kRows * cols, 0.25f), weight(cols, 1.0f);
    acc[1 * cols + cols - 1] = kNan;
    y[2 * cols] = -kInfinity;
    acc[3 * cols + 1] = y[3 * cols + 1] = 3e38f;  // their sum
    // Alone in its row, so that its norm is about sqrt(cols).
    for (const int64_t row : {4, 5}) {
      std::fill_n(acc.begin() + row * cols, cols, 0.0f);
      std::fill_n(y.begin() + row * cols, cols, 0.0f);
    }
    acc[4 * cols] = acc[5 * cols + 1] = 1.0f;
    weight[0] = 3.4e38f / std::sqrt(static_cast<float>(cols)) * 0.9999f;
    weight[1] = 3e38f;
    for (const int64_t row : {0, 1, 2, 3, 6}) acc[row * cols] = y[row * cols] = row == 2 ? -kInfinity : 0.0f;
    for (const int64_t row : {0, 6}) acc[row * cols + 1] = y[row * cols + 1] = 0.0f;
    for (const bool rounded : {false, true}) {
      AddNormArgs args;
      args.add.acc = CopiedIn(acc);
      args.add.y = CopiedIn(y);
      args.add.fault_layer =
          CopiedIn(std::vector<int32_t>{kNoFault, kNoFault, kNoFault, kNoFault, kNoFault, kNoFault, 2});
      args.add.rows = kRows;
      args.add.cols = cols;
      args.add.layer = 5;
      args.weight = CopiedIn(weight);
      args.out = reinterpret_cast<float*>(Device(kRows * cols * 4));
      args.rounded = rounded ? Device(kRows * cols * 2) : nullptr;
      args.eps = 1e-6f;
      device_->AddAndNormalise(args);
      const std::vector<int32_t> want = {kNoFault, 5, 5, 5, rounded ? 5 : kNoFault, 5, 2};
      EXPECT_EQ(CopiedOut<int32_t>(args.add.fault_layer, kRows), want) << cols << " columns, rounded: " << rounded;
    }
  }
}

TEST_F(RowOpsTest, AStreamThatWaitsForAnEventFindsWhatTheQueueMade) {
  auto stream = device_->NewStream();
  auto event = device_->NewEvent();
  ASSERT_TRUE(stream.ok() && event.ok()) << stream.status() << event.status();
  constexpr int64_t kBytes = 8 << 20;
  auto* const host = Pinned(kBytes);
  auto* const back = Pinned(kBytes);
  std::byte* const made = Device(kBytes);
  auto own = (*stream)->Allocate(kBytes);
  ASSERT_TRUE(own.ok()) << own.status();
  for (int round = 1; round < 20; ++round) {
    std::memset(host, round, kBytes);
    device_->CopyIn(made, host, kBytes);
    device_->Record(**event);
    (*stream)->WaitFor(**event);
    (*stream)->CopyWithin(*own, made, kBytes);
    (*stream)->CopyOut(back, *own, kBytes);
    auto read = (*stream)->NewEvent();
    ASSERT_TRUE(read.ok()) << read.status();
    (*stream)->Record(**read);
    ASSERT_TRUE((*read)->Wait().ok());
    const auto done = (*event)->Done();
    EXPECT_TRUE(done.ok() && *done);
    for (const int64_t at : {int64_t{0}, kBytes / 2, kBytes - 1}) ASSERT_EQ(back[at], static_cast<std::byte>(round));
  }
  (*stream)->Free(*own);
}

TEST(HostAcceleratorTest, LazyWorkWaitsUntilSomebodyMustSeeIt) {
  const auto lazy = HostAccelerator::Create();
  lazy->BeLazy();
  const auto event = lazy->NewEvent();
  ASSERT_TRUE(event.ok());
  int32_t from = 7, to = 0;
  lazy->CopyIn(&to, &from, sizeof(from));
  EXPECT_TRUE((*event)->Wait().ok());
  EXPECT_EQ(to, 0) << "it was not recorded";
  lazy->Record(**event);
  const int32_t later = 8;
  lazy->CopyIn(&to, &later, sizeof(later));
  EXPECT_TRUE((*event)->Wait().ok());
  EXPECT_EQ(to, 7);
  EXPECT_TRUE(lazy->Synchronize().ok());
  EXPECT_EQ(to, 8);
  lazy->Lose();
  EXPECT_EQ((*event)->Done().status().code(), absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace conclave
