#include "moe/placement/placement.h"

#include <algorithm>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "moe/base/ids.h"

namespace conclave {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

const std::vector<LayerId> kLayers = {LayerId{1}, LayerId{3}};

std::vector<ShardHoldings> Dealt(int experts, int shards) {
  std::vector<ShardHoldings> all(shards);
  for (int i = 0; i < shards; ++i) {
    all[i].name = "expert-" + std::to_string(i);
    for (const LayerId layer : kLayers) all[i].holdings.push_back({layer, ExpertsOfShard(experts, i, shards)});
  }
  return all;
}

TEST(ExpertsOfShard, CoversEveryExpertOnceAndIsBalancedToWithinOne) {
  for (const int experts : {0, 1, 4, 31, 32, 256}) {
    for (const int shards : {1, 2, 3, 5, 8, 40}) {
      int next = 0;
      for (int i = 0; i < shards; ++i) {
        const std::vector<ExpertId> held = ExpertsOfShard(experts, i, shards);
        EXPECT_GE(static_cast<int>(held.size()), experts / shards);
        EXPECT_LE(static_cast<int>(held.size()), (experts + shards - 1) / shards);
        for (const ExpertId expert : held) EXPECT_EQ(Value(expert), next++) << experts << " over " << shards;
      }
      EXPECT_EQ(next, experts);
    }
  }
}

TEST(ExpertsOfShard, WithReplicasEveryExpertLivesOnThatManyShards) {
  for (const int experts : {0, 1, 4, 31, 32, 256}) {
    for (const int shards : {1, 2, 3, 5, 8, 40}) {
      for (int replicas = 1; replicas <= std::min(shards, 4); ++replicas) {
        std::vector<int> holders(experts);
        for (int i = 0; i < shards; ++i) {
          const std::vector<ExpertId> held = ExpertsOfShard(experts, i, shards, replicas);
          for (size_t k = 0; k < held.size(); ++k) {
            EXPECT_TRUE(k == 0 || Value(held[k - 1]) < Value(held[k]));
            ++holders[Value(held[k])];
          }
        }
        EXPECT_THAT(holders, Each(replicas)) << experts << " over " << shards;
      }
    }
  }
}

TEST(ExpertsOfShard, FurtherShardsTakeASliceOfEveryShare) {
  EXPECT_EQ(FormatExperts(ExpertsOfShard(32, 4, 4)), "0-1, 10-11, 20-21, 30-31");
  EXPECT_EQ(FormatExperts(ExpertsOfShard(32, 5, 4)), "2-3, 12-13, 22-25");
  for (const int experts : {32, 61, 256}) {
    for (const int shards : {1, 3, 4, 64}) {
      std::vector<int> copies(experts);
      for (int further = shards; further < 2 * shards; ++further) {
        const std::vector<ExpertId> held = ExpertsOfShard(experts, further, shards);
        EXPECT_TRUE(std::is_sorted(held.begin(), held.end()));
        const int fair = experts / shards;
        EXPECT_NEAR(static_cast<int>(held.size()), fair, shards == 64 && experts == 61 ? 2 : 1 + fair / 4);
        for (const ExpertId expert : held) ++copies[Value(expert)];
      }
      EXPECT_THAT(copies, testing::Each(1)) << experts << " experts, " << shards << " shards";
      EXPECT_EQ(ExpertsOfShard(experts, shards, shards), ExpertsOfShard(experts, 2 * shards, shards));
    }
  }
}

TEST(ExpertsOfShard, FurtherShardsOfReplicatedOnesHoldAsMuchAsThose) {
  EXPECT_EQ(ExpertsOfShard(32, 4, 4, 2).size(), ExpertsOfShard(32, 0, 4, 2).size());
}

TEST(ExpertsOfShard, TheWorkOfADeadShardFallsToBothNeighbours) {
  // Shard 1 of 4 holds its own share and its successor's; what it held first also lives on shard 0.
  EXPECT_EQ(FormatExperts(ExpertsOfShard(32, 0, 4, 2)), "0-15");
  EXPECT_EQ(FormatExperts(ExpertsOfShard(32, 1, 4, 2)), "8-23");
  EXPECT_EQ(FormatExperts(ExpertsOfShard(32, 3, 4, 2)), "0-7, 24-31");
}

TEST(FormatExperts, JoinsRuns) {
  EXPECT_EQ(FormatExperts({}), "none");
  EXPECT_EQ(FormatExperts({ExpertId{0}, ExpertId{1}, ExpertId{2}, ExpertId{7}, ExpertId{9}, ExpertId{10}}),
            "0-2, 7, 9-10");
}

TEST(Placement, FindsTheHolderOfEveryExpert) {
  for (const int shards : {1, 2, 3, 5, 8, 40}) {
    const auto placement = Placement::Create(7, kLayers, 32, Dealt(32, shards));
    ASSERT_TRUE(placement.ok()) << placement.status();
    EXPECT_EQ((*placement)->epoch(), 7u);
    EXPECT_EQ((*placement)->shards(), shards);
    for (const LayerId layer : kLayers) {
      for (int shard = 0; shard < shards; ++shard) {
        for (const ExpertId expert : ExpertsOfShard(32, shard, shards)) {
          EXPECT_THAT((*placement)->Holders(layer, expert), ElementsAre(ShardId{shard}));
        }
      }
    }
  }
}

TEST(Placement, ListsEveryCopyInAscendingOrder) {
  std::vector<ShardHoldings> shards = Dealt(4, 2);
  shards.push_back(shards[0]);
  const auto placement = Placement::Create(1, kLayers, 4, shards);
  ASSERT_TRUE(placement.ok()) << placement.status();
  EXPECT_THAT((*placement)->Holders(LayerId{1}, ExpertId{0}), ElementsAre(ShardId{0}, ShardId{2}));
  EXPECT_THAT((*placement)->Holders(LayerId{1}, ExpertId{3}), ElementsAre(ShardId{1}));
}

TEST(Placement, HasNoHoldersOutsideOfTheModel) {
  const auto placement = Placement::Create(1, kLayers, 4, Dealt(4, 2));
  ASSERT_TRUE(placement.ok());
  EXPECT_TRUE((*placement)->Holders(LayerId{0}, ExpertId{0}).empty());
  EXPECT_TRUE((*placement)->Holders(LayerId{2}, ExpertId{0}).empty());
  EXPECT_TRUE((*placement)->Holders(LayerId{99}, ExpertId{0}).empty());
  EXPECT_TRUE((*placement)->Holders(LayerId{-1}, ExpertId{0}).empty());
  EXPECT_TRUE((*placement)->Holders(LayerId{1}, ExpertId{4}).empty());
  EXPECT_TRUE((*placement)->Holders(LayerId{1}, ExpertId{-1}).empty());
}

TEST(Placement, NamesAnExpertThatNobodyHolds) {
  std::vector<ShardHoldings> shards = Dealt(6, 3);
  shards.erase(shards.begin() + 1);
  const auto placement = Placement::Create(1, kLayers, 6, shards);
  ASSERT_TRUE(placement.ok()) << placement.status();
  const absl::Status status = (*placement)->CheckComplete();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(status.message()), HasSubstr("layer 1 expert 2 (and 3 other experts)"));
  EXPECT_TRUE((*placement)->Holders(LayerId{1}, ExpertId{2}).empty());
  EXPECT_TRUE((*Placement::Create(1, kLayers, 6, Dealt(6, 3)))->CheckComplete().ok());
}

TEST(Placement, RefusesHoldingsOutsideOfTheModel) {
  std::vector<ShardHoldings> other_layer = Dealt(4, 2);
  other_layer[1].holdings[0].layer = LayerId{2};
  EXPECT_THAT(std::string(Placement::Create(1, kLayers, 4, other_layer).status().message()),
              HasSubstr("shard expert-1 holds experts of layer 2"));

  std::vector<ShardHoldings> other_expert = Dealt(4, 2);
  other_expert[0].holdings[1].experts.push_back(ExpertId{4});
  EXPECT_THAT(std::string(Placement::Create(1, kLayers, 4, other_expert).status().message()),
              HasSubstr("shard expert-0: layer 3 expert 4 is not one of the model's"));

  std::vector<ShardHoldings> twice = Dealt(4, 2);
  twice[0].holdings.push_back(twice[0].holdings[0]);
  EXPECT_THAT(std::string(Placement::Create(1, kLayers, 4, twice).status().message()), HasSubstr("listed twice"));
  EXPECT_FALSE(Placement::Create(1, kLayers, 4, {}).ok());
}

}  // namespace
}  // namespace conclave
