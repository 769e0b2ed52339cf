#include "moe/base/quantile.h"

#include <gtest/gtest.h>

namespace conclave {
namespace {

TEST(Quantile, LiesBetweenTwoSamplesAsNumPySays) {
  EXPECT_DOUBLE_EQ(Quantile({1, 2, 3, 4}, 0), 1);
  EXPECT_DOUBLE_EQ(Quantile({1, 2, 3, 4}, 0.5), 2.5);
  EXPECT_DOUBLE_EQ(Quantile({1, 2, 3, 4}, 0.9), 3.7);
  EXPECT_DOUBLE_EQ(Quantile({1, 2, 3, 4}, 1), 4);
  EXPECT_DOUBLE_EQ(Quantile({5}, 0.99), 5);
}

TEST(Quantile, OfSamplesInAnyOrder) {
  EXPECT_DOUBLE_EQ(MedianOf({9, 1, 5}), 5);
  EXPECT_DOUBLE_EQ(MedianOf({4, 1, 3, 2}), 2.5);
  EXPECT_DOUBLE_EQ(QuantileOf({4, 1, 3, 2}, 0.9), 3.7);
  EXPECT_DOUBLE_EQ(MedianOf({}), 0);
}

}  // namespace
}  // namespace conclave
