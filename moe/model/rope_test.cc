#include "moe/model/rope.h"

#include <cmath>
#include <numeric>
#include <vector>

#include "gtest/gtest.h"

namespace conclave {
namespace {

AttentionSpec DeepSeekV3() {
  AttentionSpec spec;
  spec.qk_nope_head_dim = 128;
  spec.qk_rope_head_dim = 64;
  spec.yarn = YarnSpec{40, 4096, 32, 1, 1.0, 1.0};
  return spec;
}

std::vector<float> Rotated(const Rope& rope, int row, std::vector<float> x) {
  rope.Rotate(row, x.data(), x.data());
  return x;
}

TEST(RopeTest, FrequenciesFallGeometricallyWithoutYarn) {
  AttentionSpec spec;
  spec.qk_rope_head_dim = 8;
  spec.rope_theta = 10000;
  const std::vector<float> frequencies = RopeFrequencies(spec);
  ASSERT_EQ(frequencies.size(), 4u);
  for (int i = 0; i < 4; ++i) EXPECT_NEAR(frequencies[i], std::pow(10000.0, -i / 4.0), 1e-7) << i;
  EXPECT_EQ(RopeAttentionFactor(spec), 1.0f);
}

TEST(RopeTest, YarnKeepsFastWavesAndStretchesSlowOnes) {
  const AttentionSpec spec = DeepSeekV3();
  const std::vector<float> frequencies = RopeFrequencies(spec);
  // For these settings the ramp runs from pair 10 to pair 23: worked out by hand from Peng et al., section 3.2.
  for (int i = 0; i < 32; ++i) {
    const double plain = std::pow(10000.0, -i / 32.0);
    const double ramp = std::min(std::max((i - 10) / 13.0, 0.0), 1.0);
    EXPECT_NEAR(frequencies[i] / plain, 1 - ramp + ramp / 40, 1e-6) << i;
  }
}

TEST(RopeTest, EqualMscalesCancelInTheFactorAndShowInTheSoftmaxScale) {
  AttentionSpec spec = DeepSeekV3();
  const double mscale = 0.1 * std::log(40.0) + 1;
  EXPECT_EQ(RopeAttentionFactor(spec), 1.0f);
  EXPECT_NEAR(SoftmaxScale(spec), mscale * mscale / std::sqrt(192.0), 1e-7);
  spec.yarn->mscale_all_dim = 0;
  EXPECT_NEAR(RopeAttentionFactor(spec), mscale, 1e-6);
  EXPECT_NEAR(SoftmaxScale(spec), 1 / std::sqrt(192.0), 1e-7);
  spec.yarn->mscale = 0.5;
  spec.yarn->mscale_all_dim = 0.25;
  EXPECT_NEAR(RopeAttentionFactor(spec), (0.05 * std::log(40.0) + 1) / (0.025 * std::log(40.0) + 1), 1e-6);
}

TEST(RopeTest, PositionZeroChangesNothing) {
  AttentionSpec spec;
  spec.qk_rope_head_dim = 8;
  Rope rope(spec, 1);
  rope.SetPositions({0});
  const std::vector<float> x = {1, -2, 3, -4, 5, -6, 7, -8};
  EXPECT_EQ(Rotated(rope, 0, x), x);
}

TEST(RopeTest, InterleavedTurnsNeighboursAndOtherwiseHalves) {
  AttentionSpec spec;
  spec.qk_rope_head_dim = 4;
  Rope interleaved(spec, 1);
  interleaved.SetPositions({1});
  const float c0 = std::cos(1.0f), s0 = std::sin(1.0f), c1 = std::cos(0.01f), s1 = std::sin(0.01f);
  const std::vector<float> neighbours = Rotated(interleaved, 0, {1, 2, 3, 4});
  EXPECT_NEAR(neighbours[0], 1 * c0 - 2 * s0, 1e-6);
  EXPECT_NEAR(neighbours[1], 2 * c0 + 1 * s0, 1e-6);
  EXPECT_NEAR(neighbours[2], 3 * c1 - 4 * s1, 1e-6);
  EXPECT_NEAR(neighbours[3], 4 * c1 + 3 * s1, 1e-6);
  spec.rope_interleaved = false;
  Rope halves(spec, 1);
  halves.SetPositions({1});
  const std::vector<float> split = Rotated(halves, 0, {1, 3, 2, 4});
  EXPECT_EQ(split, (std::vector<float>{neighbours[0], neighbours[2], neighbours[1], neighbours[3]}));
}

TEST(RopeTest, ScoresDependOnTheDistanceAlone) {
  const AttentionSpec spec = DeepSeekV3();
  Rope rope(spec, 4);
  rope.SetPositions({3, 10, 1003, 1010});
  std::vector<float> query(64), key(64);
  for (int i = 0; i < 64; ++i) query[i] = std::sin(i), key[i] = std::cos(3 * i);
  const auto score = [&](int query_row, int key_row) {
    const std::vector<float> q = Rotated(rope, query_row, query), k = Rotated(rope, key_row, key);
    return std::inner_product(q.begin(), q.end(), k.begin(), 0.0);
  };
  EXPECT_NEAR(score(1, 0), score(3, 2), 1e-3);
  EXPECT_GT(std::fabs(score(1, 0) - score(3, 0)), 1e-2);
}

TEST(RopeTest, RowsHaveTheirOwnPositions) {
  AttentionSpec spec;
  spec.qk_rope_head_dim = 16;
  Rope together(spec, 3), alone(spec, 1);
  together.SetPositions({5, 70000, 12});
  alone.SetPositions({70000});
  const std::vector<float> x(16, 1.5f);
  EXPECT_EQ(Rotated(together, 1, x), Rotated(alone, 0, x));
  EXPECT_NE(Rotated(together, 0, x), Rotated(together, 1, x));
}

}  // namespace
}  // namespace conclave
