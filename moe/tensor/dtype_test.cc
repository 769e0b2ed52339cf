#include "moe/tensor/dtype.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace conclave {
namespace {

TEST(DTypeTest, NamesRoundTrip) {
  for (int i = 1; i <= 16; ++i) {
    const auto dtype = static_cast<DType>(i);
    const auto parsed = ParseDType(Name(dtype));
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    EXPECT_EQ(*parsed, dtype);
  }
  EXPECT_EQ(ParseDType("Q4_K").status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(DTypeTest, F8E4M3DecodesTheCornersOfTheFormat) {
  EXPECT_EQ(F8E4M3ToFloat(0x00), 0.0f);
  EXPECT_EQ(F8E4M3ToFloat(0x01), std::ldexp(1.0f, -9));
  EXPECT_EQ(F8E4M3ToFloat(0x08), std::ldexp(1.0f, -6));
  EXPECT_EQ(F8E4M3ToFloat(0x38), 1.0f);
  EXPECT_EQ(F8E4M3ToFloat(0x7e), 448.0f);
  EXPECT_EQ(F8E4M3ToFloat(0xfe), -448.0f);
  EXPECT_TRUE(std::isnan(F8E4M3ToFloat(0x7f)));
}

TEST(DTypeTest, F8E4M3RoundTripsEveryValue) {
  for (int bits = 0; bits < 256; ++bits) {
    if ((bits & 0x7f) == 0x7f) continue;
    EXPECT_EQ(FloatToF8E4M3(F8E4M3ToFloat(static_cast<uint8_t>(bits))), bits);
  }
}

TEST(DTypeTest, F8E4M3RoundsToNearestEvenAndSaturates) {
  EXPECT_EQ(FloatToF8E4M3(1.0625f), 0x38);   // halfway between 1 and 1.125: even mantissa wins
  EXPECT_EQ(FloatToF8E4M3(1.1875f), 0x3a);   // halfway between 1.125 and 1.25
  EXPECT_EQ(FloatToF8E4M3(1.97f), 0x40);     // carries into the exponent
  EXPECT_EQ(FloatToF8E4M3(1e9f), 0x7e);
  EXPECT_EQ(FloatToF8E4M3(-std::numeric_limits<float>::infinity()), 0xfe);
}

TEST(DTypeTest, Bf16RoundsToNearestEvenAndKeepsNaN) {
  EXPECT_EQ(FloatToBf16(1.0f), 0x3f80);
  EXPECT_EQ(FloatToBf16(1.00390625f), 0x3f80);  // halfway: even
  EXPECT_EQ(FloatToBf16(1.01171875f), 0x3f82);  // halfway: even
  EXPECT_TRUE(std::isnan(Bf16ToFloat(FloatToBf16(std::nanf("")))));
}

TEST(DTypeTest, F16DecodesSubnormalsAndInfinity) {
  EXPECT_EQ(F16ToFloat(0x0001), std::ldexp(1.0f, -24));
  EXPECT_EQ(F16ToFloat(0x3c00), 1.0f);
  EXPECT_EQ(F16ToFloat(0xfc00), -std::numeric_limits<float>::infinity());
}

TEST(DTypeTest, F8E8M0IsAPowerOfTwo) {
  EXPECT_EQ(F8E8M0ToFloat(127), 1.0f);
  EXPECT_EQ(F8E8M0ToFloat(120), 1.0f / 128);
  EXPECT_TRUE(std::isnan(F8E8M0ToFloat(0xff)));
}

}  // namespace
}  // namespace conclave
