#include "cli/core_split.h"

#include <gtest/gtest.h>

#include <numeric>
#include <vector>

namespace conclave {
namespace {

using Threads = std::vector<int>;

TEST(CoreSplitTest, LetsAttentionServicesAndShardsTakeTurns) {
  EXPECT_EQ(ShareCores(16, 1, 4).routers, (Threads{16}));
  EXPECT_EQ(ShareCores(16, 1, 4).shards, (Threads{8, 8, 8, 8}));
  EXPECT_EQ(ShareCores(16, 1, 2).shards, (Threads{8, 8}));
  EXPECT_EQ(ShareCores(16, 1, 1).shards, (Threads{16}));
  EXPECT_EQ(ShareCores(16, 2, 8).routers, (Threads{8, 8}));
  EXPECT_EQ(ShareCores(16, 2, 8).shards, Threads(8, 4));
  EXPECT_EQ(ShareCores(7, 2, 0).routers, (Threads{4, 3}));
  EXPECT_TRUE(ShareCores(7, 2, 0).shards.empty());
}

TEST(CoreSplitTest, GivesShardsTwoThreadsEachWhereCoresAreFew) {
  EXPECT_EQ(ShareCores(2, 1, 4).routers, (Threads{2}));
  EXPECT_EQ(ShareCores(2, 1, 4).shards, (Threads{2, 2, 2, 2}));
  EXPECT_EQ(ShareCores(2, 1, 2).shards, (Threads{2, 2}));
  EXPECT_EQ(ShareCores(2, 1, 1).shards, (Threads{2}));
  EXPECT_EQ(ShareCores(4, 1, 9).shards, Threads(9, 2));
  EXPECT_EQ(ShareCores(1, 2, 1).routers, (Threads{1, 1}));
  EXPECT_EQ(ShareCores(1, 2, 1).shards, (Threads{1}));
}

TEST(CoreSplitTest, HalvesCoresOfTheirOwn) {
  const CoreSplit split = SplitCores(16, 1, 4);
  EXPECT_EQ(split.routers, (Threads{8}));
  EXPECT_EQ(split.shards, (Threads{2, 2, 2, 2}));
}

TEST(CoreSplitTest, GivesAllToAttentionServicesWithoutShards) {
  EXPECT_EQ(SplitCores(7, 2, 0).routers, (Threads{4, 3}));
  EXPECT_TRUE(SplitCores(7, 2, 0).shards.empty());
}

TEST(CoreSplitTest, GivesEachProcessACoreFirst) {
  const CoreSplit split = SplitCores(6, 1, 4);
  EXPECT_EQ(split.routers, (Threads{2}));
  EXPECT_EQ(split.shards, (Threads{1, 1, 1, 1}));
  EXPECT_EQ(SplitCores(8, 5, 1).shards, (Threads{3}));
}

TEST(CoreSplitTest, NeverTakesMoreThanThereIsWhereThereIsEnough) {
  for (int routers = 1; routers <= 3; ++routers) {
    for (int shards = 0; shards <= 9; ++shards) {
      for (int cores = routers + shards; cores <= 33; ++cores) {
        const CoreSplit split = SplitCores(cores, routers, shards);
        EXPECT_EQ(std::accumulate(split.routers.begin(), split.routers.end(), 0) +
                      std::accumulate(split.shards.begin(), split.shards.end(), 0),
                  cores)
            << routers << " attention services, " << shards << " shards";
      }
    }
  }
}

TEST(CoreSplitTest, CutsTheListOfCpusInItsOrder) {
  EXPECT_EQ(AssignCpus({{2}, {1, 1}}, {0, 4, 1, 5}), (std::vector<std::vector<int>>{{0, 4}, {1}, {5}}));
}

}  // namespace
}  // namespace conclave
