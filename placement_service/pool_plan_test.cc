#include "placement_service/pool_plan.h"

#include <algorithm>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>
#include <numeric>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "gtest/gtest.h"
#include "moe/base/ids.h"
#include "moe/placement/placement.h"

namespace conclave {
namespace {

// Shards that hold contiguous shares of every layer, 100 bytes an expert.
std::vector<PoolShard> Shards(int count, int layers, int experts, int replicas = 1) {
  std::vector<PoolShard> shards;
  for (int i = 0; i < count; ++i) {
    PoolShard shard;
    shard.address = absl::StrCat("shard-", i);
    shard.description.model_fingerprint = "model";
    shard.description.revision = 1;
    shard.description.experts_per_layer = experts;
    shard.description.replicas = replicas;
    int held = 0;
    for (int layer = 1; layer <= layers; ++layer) {
      shard.description.holdings.push_back({LayerId{layer}, ExpertsOfShard(experts, i, count, replicas)});
      held += static_cast<int>(shard.description.holdings.back().experts.size());
    }
    shard.description.expert_bytes = static_cast<uint64_t>(held) * 100;
    shards.push_back(shard);
  }
  return shards;
}

// What was run, where each expert has one holder.
void Feed(Pool& pool, size_t layer, const std::vector<double>& tokens) {
  pool.layers[layer].tokens = tokens;
  for (size_t e = 0; e < tokens.size(); ++e) {
    const auto& holders = pool.layers[layer].holders[e];
    for (const int32_t shard : holders) {
      pool.layers[layer].shard_tokens[static_cast<size_t>(shard)] += tokens[e] / static_cast<double>(holders.size());
    }
  }
}

std::vector<double> OneHot(int experts, int hot) {
  std::vector<double> tokens(static_cast<size_t>(experts), 200);
  tokens[static_cast<size_t>(hot)] = 5000;
  return tokens;
}

TEST(MakePool, KnowsWhoHoldsWhatAndWhatNobodyHolds) {
  std::vector<PoolShard> shards = Shards(2, 2, 8);
  shards[1].description.holdings[1].experts.pop_back();
  const Pool pool = MakePool(shards);
  EXPECT_EQ(pool.experts, 8);
  EXPECT_EQ(pool.expert_bytes(), 100);
  EXPECT_EQ(pool.orphans, 1);
  EXPECT_EQ(pool.layers[0].holders[7], std::vector<int32_t>{1});
  EXPECT_TRUE(pool.layers[1].holders[7].empty());
}

TEST(MakePool, LeavesShardsOfAnotherModelOut) {
  std::vector<PoolShard> shards = Shards(3, 1, 8);
  shards[2].description.model_fingerprint = "another";
  EXPECT_EQ(MakePool(shards).shards.size(), 2u);
}

TEST(PlanPool, TakesTheMovesThatBringMostFirst) {
  Pool pool = MakePool(Shards(4, 2, 32));
  Feed(pool, 0, OneHot(32, 3));
  std::vector<double> hotter = OneHot(32, 9);
  hotter[9] = 50'000;
  Feed(pool, 1, hotter);
  PoolPlanOptions options;
  options.moves_max = 1;
  const PoolPlan plan = PlanPool(pool, options);
  ASSERT_EQ(plan.moves.size(), 1u);
  EXPECT_EQ(plan.moves[0].layer, LayerId{2});
  EXPECT_EQ(plan.moves[0].expert, ExpertId{9});
  EXPECT_GT(plan.moves_left, 0);
  EXPECT_GT(plan.measured, plan.planned);
}

TEST(PlanPool, ExpertsWithoutAHolderGoBeforeAllOthers) {
  std::vector<PoolShard> shards = Shards(4, 2, 32);
  shards[3].description.holdings[1].experts.pop_back();
  Pool pool = MakePool(shards);
  Feed(pool, 0, OneHot(32, 3));
  PoolPlanOptions options;
  options.moves_max = 1;
  const PoolPlan plan = PlanPool(pool, options);
  ASSERT_EQ(plan.moves.size(), 1u);
  EXPECT_EQ(plan.moves[0].layer, LayerId{2});
  EXPECT_EQ(plan.moves[0].expert, ExpertId{31});
}

TEST(PlanPool, AShardTakesNoMoreThanItsMemoryWhateverItsLayersHold) {
  std::vector<PoolShard> shards = Shards(4, 2, 32);
  for (PoolShard& shard : shards) shard.description.expert_bytes_max = 17 * 100;  // 16 held: room for one
  Pool pool = MakePool(shards);
  Feed(pool, 0, OneHot(32, 3));
  Feed(pool, 1, OneHot(32, 9));
  const PoolPlan plan = PlanPool(pool, PoolPlanOptions{});
  std::vector<int> taken(4);
  for (const PoolMove& move : plan.moves) taken[static_cast<size_t>(move.to)] += !move.evict.has_value();
  EXPECT_LE(*std::max_element(taken.begin(), taken.end()), 1);
}

// Two releases whose kernels differ: attention services take rows of one of them only.
TEST(PlanPool, NoShardLetsAnExpertGoBecauseOneOfAnotherProfileHoldsIt) {
  for (const bool same : {true, false}) {
    std::vector<PoolShard> shards = Shards(2, 1, 32);
    shards[0].description.holdings[0].experts.push_back(ExpertId{31});
    shards[0].description.expert_bytes += 100;
    for (PoolShard& shard : shards) shard.description.expert_bytes_max = 16 * 100;
    shards[1].description.numeric_profile = same ? "" : "other kernels";
    Pool pool = MakePool(shards);
    Feed(pool, 0, OneHot(32, 3));
    const PoolPlan plan = PlanPool(pool, PoolPlanOptions{});
    ASSERT_EQ(plan.moves.size(), 1u);
    EXPECT_EQ(plan.moves[0].evict, ExpertId{31});
    EXPECT_EQ(plan.moves[0].keeper, same ? 0 : -1);
  }
}

TEST(PlanPool, ReplicasThatShardsAreMeantToHaveStay) {
  Pool pool = MakePool(Shards(4, 1, 32, /*replicas=*/2));
  Feed(pool, 0, OneHot(32, 3));
  PoolPlanOptions options;
  options.spare = 0;  // to take one, a shard must let one go
  for (const PoolMove& move : PlanPool(pool, options).moves) EXPECT_FALSE(move.evict.has_value());
}

// The demo model's own loads, domain by domain: tokens of each expert on held-out text. Prints what docs/performance.md
// shows.
TEST(PlanPool, EveryDomainOfTheDemoModelEvensOut) {
  std::ifstream file("models/demo/expert_load.json");
  const nlohmann::json loads = nlohmann::json::parse(file);
  for (const auto& [domain, layers] : loads["domains"].items()) {
    const int count = static_cast<int>(layers.size()) - 1;  // the last one is the MTP module
    double now = 0, worst = 0;
    std::string line = absl::StrFormat("%-8s", domain);
    for (const double spare : {0.125, 0.25, 0.5}) {
      Pool pool = MakePool(Shards(4, count, 32));
      for (int layer = 0; layer < count; ++layer) {
        Feed(pool, static_cast<size_t>(layer), layers[layer].get<std::vector<double>>());
      }
      PoolPlanOptions options;
      options.spare = spare;
      options.moves_max = 1000;
      const PoolPlan plan = PlanPool(pool, options);
      if (now == 0) {
        for (const LayerReport& layer : plan.layers) worst = std::max(worst, layer.measured);
        now = plan.measured;
        absl::StrAppendFormat(&line, " %.2f (worst layer %.2f)", now, worst);
      }
      absl::StrAppendFormat(&line, " | %.2f, %d copies", plan.planned, plan.moves.size());
      if (spare >= 0.25) {
        EXPECT_LT(plan.planned, std::max(1.1, 1 + (now - 1) / 3)) << domain;
      }
    }
    std::cout << line << std::endl;
  }
}

}  // namespace
}  // namespace conclave
