#include "moe/placement/load_split.h"

#include <vector>

#include "gtest/gtest.h"

namespace conclave {
namespace {

TEST(SplitEvenly, GivesAnExpertWithOneHolderToThatOne) {
  EXPECT_EQ(SplitEvenly({3.0, 4.0, 5.0}, {{0}, {1}, {1}}, 3), (std::vector<double>{3, 9, 0}));
}

TEST(SplitEvenly, FillsTheEmptierHolderFirst) {
  const std::vector<double> loads = SplitEvenly({10.0, 2.0, 6.0}, {{0}, {1}, {0, 1}}, 2);
  EXPECT_DOUBLE_EQ(loads[0], 10);
  EXPECT_DOUBLE_EQ(loads[1], 8);
}

// Shard 2 can be relieved only by way of expert 1, whose other holder is relieved by way of expert 0.
TEST(SplitEvenly, PassesLoadOnAlongAChainOfSharedExperts) {
  const std::vector<double> loads = SplitEvenly({6.0, 6.0, 6.0}, {{0, 1}, {1, 2}, {2}}, 3);
  for (const double load : loads) EXPECT_NEAR(load, 6, 1e-3);
}

TEST(SplitEvenly, ExpertsWithoutHoldersGoNowhere) {
  EXPECT_EQ(SplitEvenly({7.0, 1.0}, {{}, {1}}, 2), (std::vector<double>{0, 1}));
}

TEST(MaxOverMean, IsOneWhereAllAreAlikeOrNothingIsThere) {
  EXPECT_DOUBLE_EQ(MaxOverMean({2.0, 2.0}), 1);
  EXPECT_DOUBLE_EQ(MaxOverMean({0.0, 0.0}), 1);
  EXPECT_DOUBLE_EQ(MaxOverMean({6.0, 0.0, 0.0}), 3);
}

}  // namespace
}  // namespace conclave
