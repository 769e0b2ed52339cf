#include "moe/tensor/latent_row.h"

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "moe/tensor/buffer.h"
#include "moe/tensor/dtype.h"
#include "moe/tensor/row_format.h"

namespace conclave {
namespace {

std::vector<float> RandomRow(int64_t values, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, 3);
  std::vector<float> row(static_cast<size_t>(values));
  for (float& value : row) value = normal(random);
  return row;
}

TEST(LatentRowTest, DeepSeekV3sRowTakes656Bytes) {
  const LatentRowLayout layout = {.latent = 512, .rope = 64};
  EXPECT_EQ(layout.scales_at(), 512);
  EXPECT_EQ(layout.rope_at(), 528);
  EXPECT_EQ(layout.bytes(), 656);
}

TEST(LatentRowTest, PartsStandApartAndAligned) {
  const LatentRowLayout layout = {.latent = 130, .rope = 6};
  EXPECT_EQ(layout.scales(), 2);
  EXPECT_EQ(layout.scales_at(), 144);
  EXPECT_EQ(layout.rope_at(), 160);
  EXPECT_EQ(layout.bytes(), 176);
}

TEST(LatentRowTest, LatentsAreRoundedAsRowsToExpertsAndKeysToBfloat16) {
  for (const int latent : {16, 130, 512}) {
    const LatentRowLayout layout = {.latent = latent, .rope = 8};
    const std::vector<float> row = RandomRow(latent + 8, static_cast<uint32_t>(latent));
    std::vector<std::byte> packed(static_cast<size_t>(layout.bytes()));
    PackLatentRow(layout, row.data(), packed.data());
    MatBuffer values(DType::kF32, 1, latent), expected(DType::kF32, 1, latent);
    std::copy_n(row.begin(), latent, values.view().Row<float>(0));
    RoundToFp8(values.view(), expected.view());
    for (int i = 0; i < latent; ++i) {
      ASSERT_EQ(PackedLatentAt(layout, packed.data(), i), expected.view().Row<float>(0)[i]) << i << " of " << latent;
    }
    for (int i = latent; i < latent + 8; ++i) {
      ASSERT_EQ(PackedLatentAt(layout, packed.data(), i), Bf16ToFloat(FloatToBf16(row[static_cast<size_t>(i)]))) << i;
    }
  }
}

TEST(LatentRowTest, WhatIsNotFiniteIsNotMended) {
  const LatentRowLayout layout = {.latent = 256, .rope = 2};
  for (const float bad : {std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(), NAN}) {
    std::vector<float> row = RandomRow(258, 5);
    row[7] = bad;
    std::vector<std::byte> packed(static_cast<size_t>(layout.bytes()));
    PackLatentRow(layout, row.data(), packed.data());
    EXPECT_FALSE(std::isfinite(PackedLatentAt(layout, packed.data(), 7)));
    EXPECT_TRUE(std::isfinite(PackedLatentAt(layout, packed.data(), 128)));
    row = RandomRow(258, 6);
    row[256] = bad;
    PackLatentRow(layout, row.data(), packed.data());
    EXPECT_FALSE(std::isfinite(PackedLatentAt(layout, packed.data(), 256)));
  }
}

}  // namespace
}  // namespace conclave
