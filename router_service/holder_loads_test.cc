#include "router_service/holder_loads.h"

#include <set>
#include <utility>
#include <vector>

#include "gtest/gtest.h"

namespace conclave {
namespace {

constexpr int kExperts = 64;

// What two shards that both hold every expert are given, each pair going where there is less to do then.
struct Spread {
  explicit Spread(const std::vector<int32_t>& pairs) {
    HolderLoads loads(2, kExperts);
    for (const int32_t expert : pairs) {
      const int shard = loads.With(ShardId{1}, expert, 1) < loads.With(ShardId{0}, expert, 0) ? 1 : 0;
      loads.Give(ShardId{shard}, expert, shard);
      ++count[shard];
      experts[shard].insert(expert);
    }
  }
  int count[2] = {0, 0};
  std::set<int32_t> experts[2];
};

TEST(HolderLoads, HalvesTheExpertsOfARow) {
  const Spread spread({3, 9, 17, 20, 41, 63});
  EXPECT_EQ(spread.count[0], 3);
  EXPECT_EQ(spread.count[1], 3);
}

TEST(HolderLoads, KeepsTheRowsOfAnExpertTogether) {
  std::vector<int32_t> pairs;
  for (int row = 0; row < 16; ++row) {
    for (int k = 0; k < 6; ++k) pairs.push_back((row * 7 + k * 11) % 48);
  }
  const Spread spread(pairs);
  EXPECT_EQ(spread.experts[0].size() + spread.experts[1].size(), std::set<int32_t>(pairs.begin(), pairs.end()).size());
  EXPECT_NEAR(static_cast<double>(spread.experts[0].size()), static_cast<double>(spread.experts[1].size()), 2);
}

TEST(HolderLoads, SplitsTheRowsOfAnExpertThatNearlyAllOfThemGoTo) {
  std::vector<int32_t> pairs;
  for (int row = 0; row < 500; ++row) {
    pairs.push_back(5);
    if (row % 10 == 0) pairs.push_back(6 + row / 10);
  }
  const Spread spread(pairs);
  EXPECT_EQ(spread.experts[0].count(5) + spread.experts[1].count(5), 2u);
  EXPECT_GT(spread.count[0], 150);
  EXPECT_GT(spread.count[1], 150);
}

TEST(HolderLoads, ForgetsOneTicketBeforeTheNext) {
  HolderLoads loads(2, kExperts);
  const int64_t first = loads.With(ShardId{0}, 7, 0);
  loads.Give(ShardId{0}, 7, 0);
  loads.Clear();
  EXPECT_EQ(loads.With(ShardId{0}, 7, 0), first);
}

}  // namespace
}  // namespace conclave
