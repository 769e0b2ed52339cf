#include "moe/checkpoint/integer_codes.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "moe/tensor/dtype.h"

namespace conclave {
namespace {

std::vector<float> Normal(int count, uint32_t seed) {
  std::mt19937 engine(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(count);
  for (float& value : values) value = normal(engine);
  return values;
}

TEST(IntegerCodesTest, CodesLieWithinHalfAStepAndTheirRange) {
  const std::vector<float> values = Normal(1000, 1);
  for (const int bits : {4, 8}) {
    const float scale = IntegerScale(values, bits);
    const int bound = 1 << (bits - 1);
    for (const float value : values) {
      const int code = IntegerCode(value, scale, bits);
      ASSERT_GE(code, -bound);
      ASSERT_LE(code, bound - 1);
      if (code > -bound && code < bound - 1) {
        ASSERT_LE(std::fabs(value - code * scale), scale * 0.5001f);
      }
    }
  }
}

TEST(IntegerCodesTest, ScalesAreBfloat16AndEightBitsKeepTheLargestValue) {
  const std::vector<float> values = Normal(32, 2);
  for (const int bits : {4, 8}) {
    const float scale = IntegerScale(values, bits);
    EXPECT_EQ(scale, Bf16ToFloat(FloatToBf16(scale)));
  }
  EXPECT_EQ(IntegerCode(-2.0f, IntegerScale({1.0f, -2.0f}, 8), 8), -127);
  EXPECT_EQ(IntegerCode(2.0f, IntegerScale({1.0f, 2.0f}, 8), 8), 127);
}

TEST(IntegerCodesTest, FourBitScalesLeaveNoMoreErrorThanTheLargestValueOverSeven) {
  double chosen = 0, plain = 0;
  for (uint32_t seed = 0; seed < 50; ++seed) {
    const std::vector<float> values = Normal(32, seed);
    float largest = 0;
    for (const float value : values) largest = std::max(largest, std::fabs(value));
    const float scales[] = {IntegerScale(values, 4), Bf16ToFloat(FloatToBf16(largest / 7.0f))};
    for (const float value : values) {
      chosen += std::pow(value - IntegerCode(value, scales[0], 4) * scales[0], 2);
      plain += std::pow(value - IntegerCode(value, scales[1], 4) * scales[1], 2);
    }
  }
  EXPECT_LT(chosen, 0.97 * plain);
}

TEST(IntegerCodesTest, ZerosHaveAScaleAndTheCodeZero) {
  const std::vector<float> zeros(32, 0.0f);
  for (const int bits : {4, 8}) {
    EXPECT_EQ(IntegerScale(zeros, bits), 1.0f);
    EXPECT_EQ(IntegerCode(0.0f, 1.0f, bits), 0);
  }
}

TEST(IntegerCodesTest, EncodesAsTheFormatHasIt) {
  const std::vector<float> values = {-8, -7, 0, 7, 2, -2, 4, 14};
  const std::vector<float> scales = {1, 2};
  uint8_t halves[4], bytes[8];
  EncodeIntegers(values, scales, 4, 4, halves);
  EXPECT_EQ(halves[0], 0x10);  // codes -8, -7
  EXPECT_EQ(halves[1], 0xf8);  // 0, 7
  EXPECT_EQ(halves[2], 0x79);  // 1, -1
  EXPECT_EQ(halves[3], 0xfa);  // 2, 7
  EncodeIntegers(values, scales, 4, 8, bytes);
  EXPECT_EQ(bytes[0], 120);
  EXPECT_EQ(bytes[7], 135);
}

}  // namespace
}  // namespace conclave
