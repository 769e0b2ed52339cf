#include "moe/tensor/weight_view.h"

#include <gtest/gtest.h>

#include <vector>

namespace conclave {
namespace {

WeightView Integers(const std::vector<uint8_t>& bytes, int64_t rows, WeightCode code,
                    const std::vector<uint16_t>& scales, int32_t block_cols) {
  WeightView view;
  const int64_t row_bytes = static_cast<int64_t>(bytes.size()) / rows;
  const int64_t row_scales = static_cast<int64_t>(scales.size()) / rows;
  view.matrix = BasicMatView<const void*>{bytes.data(), DType::kU8, Device::kCpu, rows, row_bytes, row_bytes};
  view.scales = BasicMatView<const void*>{scales.data(), DType::kBF16, Device::kCpu, rows, row_scales, row_scales};
  view.block_rows = 1;
  view.block_cols = block_cols;
  view.code = code;
  return view;
}

TEST(WeightViewTest, HalvesOfBytesAreElementsFromTheLowerHalfOn) {
  const std::vector<uint8_t> bytes = {0x10, 0x32, 0x54, 0x76, 0x98, 0xba, 0xdc, 0xfe};
  const std::vector<uint16_t> scales = {0x3f80, 0x4000};  // 1, 2
  const WeightView view = Integers(bytes, 1, WeightCode::kInt4, scales, 8);
  ASSERT_EQ(view.cols(), 16);
  for (int col = 0; col < 16; ++col) EXPECT_EQ(StoredValue(view, 0, col), col - 8);
  EXPECT_EQ(ScaleOf(view, 0, 7), 1.0f);
  EXPECT_EQ(ScaleOf(view, 0, 8), 2.0f);
  EXPECT_EQ(StoredBytes(view), 12);
}

TEST(WeightViewTest, BytesAreElementsAndRowsHaveTheirOwnScales) {
  const std::vector<uint8_t> bytes = {0, 1, 127, 128, 129, 255, 128, 3};
  const std::vector<uint16_t> scales = {0x3f80, 0x4000};
  const WeightView view = Integers(bytes, 2, WeightCode::kInt8, scales, 4);
  ASSERT_EQ(view.cols(), 4);
  EXPECT_EQ(StoredValue(view, 0, 0), -128);
  EXPECT_EQ(StoredValue(view, 0, 3), 0);
  EXPECT_EQ(StoredValue(view, 1, 1), 127);
  EXPECT_EQ(ScaleOf(view, 1, 3), 2.0f);
}

}  // namespace
}  // namespace conclave
