#include "moe/tensor/row_format.h"

#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "moe/tensor/buffer.h"

namespace conclave {
namespace {

// Rows of `cols` values whose blocks differ in size by powers of a thousand.
MatBuffer RandomRows(int64_t rows, int64_t cols, uint32_t seed) {
  MatBuffer made(DType::kF32, rows, cols);
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, 1);
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t col = 0; col < cols; ++col) {
      const int block = static_cast<int>((row + col / kFp8Block) % 5);
      made.view().Row<float>(row)[col] = normal(random) * std::pow(1000.0f, static_cast<float>(block - 2));
    }
  }
  return made;
}

// What e4m3 makes of `value` where a block's largest magnitude is `largest`, by the scalar conversion.
float Expected(float value, float largest) {
  float scale = 0x1p-100f;
  while (largest / scale > 448) scale *= 2;
  return F8E4M3ToFloat(FloatToF8E4M3(value / scale)) * scale;
}

TEST(RowFormat, RoundsEachBlockAsTheScalarConversionDoes) {
  for (const int64_t cols : {1, 5, 128, 129, 640}) {
    const MatBuffer rows = RandomRows(7, cols, static_cast<uint32_t>(cols));
    MatBuffer rounded(DType::kF32, 7, cols);
    RoundToFp8(rows.view(), rounded.view());
    for (int64_t row = 0; row < 7; ++row) {
      for (int64_t begin = 0; begin < cols; begin += kFp8Block) {
        const int64_t end = std::min(begin + kFp8Block, cols);
        const auto* values = rows.view().Row<float>(row);
        float largest = 0;
        for (int64_t i = begin; i < end; ++i) largest = std::max(largest, std::abs(values[i]));
        for (int64_t i = begin; i < end; ++i) {
          ASSERT_EQ(rounded.view().Row<float>(row)[i], Expected(values[i], largest)) << values[i] << " of " << largest;
        }
      }
    }
  }
}

TEST(RowFormat, WhatIsRoundedIsPackedWithoutLoss) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const int64_t cols : {1, 127, 128, 300, 7168}) {
      const MatBuffer rows = RandomRows(9, cols, static_cast<uint32_t>(cols) + 7);
      MatBuffer rounded(dtype, 9, cols), back(dtype, 9, cols);
      RoundToFp8(rows.view(), rounded.view());
      std::vector<std::byte> packed(static_cast<size_t>(9 * Fp8RowBytes(cols)));
      PackFp8(rounded.view(), packed.data());
      UnpackFp8(packed.data(), back.view());
      EXPECT_EQ(std::memcmp(rounded.view().data, back.view().data, static_cast<size_t>(rounded.bytes())), 0) << cols;
    }
  }
}

TEST(RowFormat, EdgesOfTheScaleAreKept) {
  // A largest value that rounds down to 224 or up to the limit of its scale, and values beside it that need the whole
  // range; zeros of both signs; rows too small for any scale.
  for (const float largest : {224.0f, 223.9f, 224.1f, 231.9f, 232.1f, 447.9f, 448.0f, 448.1f, 463.9f, 465.0f, 0x1p127f,
                              0x1p-120f, 1e-38f, 0.0f}) {
    MatBuffer rows(DType::kF32, 1, 128), rounded(DType::kBF16, 1, 128), back(DType::kBF16, 1, 128);
    float* values = rows.view().Row<float>(0);
    for (int i = 0; i < 128; ++i) values[i] = largest * std::pow(0.8f, static_cast<float>(i)) * (i % 2 == 0 ? 1 : -1);
    RoundToFp8(rows.view(), rounded.view());
    std::vector<std::byte> packed(static_cast<size_t>(Fp8RowBytes(128)));
    PackFp8(rounded.view(), packed.data());
    UnpackFp8(packed.data(), back.view());
    EXPECT_EQ(std::memcmp(rounded.view().data, back.view().data, 256), 0) << largest;
    const float first = LoadAsFloat(rounded.view().data, DType::kBF16, 0);
    EXPECT_LE(std::abs(first - largest), largest / 16 + 0x1p-100f) << largest;
  }
}

TEST(RowFormat, AnyBytesAreUnpacked) {
  std::mt19937 random(5);
  std::vector<std::byte> packed(static_cast<size_t>(3 * Fp8RowBytes(200)));
  for (int round = 0; round < 100; ++round) {
    for (std::byte& byte : packed) byte = static_cast<std::byte>(random());
    MatBuffer rows(DType::kBF16, 3, 200);
    UnpackFp8(packed.data(), rows.view());
  }
}

TEST(RowFormat, HasNames) {
  EXPECT_EQ(*ParseRowFormat(Name(RowFormat::kCompute)), RowFormat::kCompute);
  EXPECT_EQ(*ParseRowFormat(Name(RowFormat::kFp8)), RowFormat::kFp8);
  EXPECT_EQ(ParseRowFormat("fp4").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Fp8RowBytes(7168), 7224);
}

}  // namespace
}  // namespace conclave
