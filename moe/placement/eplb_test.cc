#include "moe/placement/eplb.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <vector>

#include "gtest/gtest.h"

namespace conclave {
namespace {

struct Case {
  std::vector<double> tokens;
  std::vector<EplbShard> shards;
  ExpertHolders holders;
  EplbOptions options;

  EplbPlan Plan() const { return PlanLayer(tokens, shards, holders, options); }
  double Mean() const {
    return std::accumulate(tokens.begin(), tokens.end(), 0.0) / static_cast<double>(shards.size());
  }
  std::vector<int> Held(const ExpertHolders& by_expert) const {
    std::vector<int> held(shards.size());
    for (const auto& list : by_expert) {
      for (const int32_t shard : list) ++held[static_cast<size_t>(shard)];
    }
    return held;
  }
};

// Contiguous shares, `copies` of each around a ring, and `spare` free slots on every shard.
Case StaticShares(int experts, int shards, int spare, int copies = 1) {
  Case c;
  c.tokens.assign(static_cast<size_t>(experts), 1);
  c.options.copies_min = copies;
  for (int expert = 0; expert < experts; ++expert) {
    auto& list = c.holders.emplace_back();
    for (int copy = 0; copy < copies; ++copy) list.push_back((expert * shards / experts + copy) % shards);
  }
  c.shards.resize(static_cast<size_t>(shards));
  const std::vector<int> held = c.Held(c.holders);
  for (size_t i = 0; i < held.size(); ++i) c.shards[i].slots = held[i] + spare;
  return c;
}

// Loads as real layers have them: a few experts get most.
void Skew(Case& c, std::mt19937& random, double exponent) {
  std::shuffle(c.tokens.begin(), c.tokens.end(), random);
  std::vector<size_t> rank(c.tokens.size());
  std::iota(rank.begin(), rank.end(), 0);
  std::shuffle(rank.begin(), rank.end(), random);
  for (size_t i = 0; i < rank.size(); ++i) c.tokens[i] = 1e5 / std::pow(1.0 + static_cast<double>(rank[i]), exponent);
}

// What stands of `holders` after all evictions, and after all of the first `steps` steps.
ExpertHolders After(const ExpertHolders& holders, const EplbPlan& plan, size_t steps, bool loaded) {
  ExpertHolders after = holders;
  for (size_t i = 0; i < steps; ++i) {
    const EplbStep& step = plan.steps[i];
    if (step.evict.has_value()) {
      auto& list = after[static_cast<size_t>(Value(*step.evict))];
      const auto at = std::find(list.begin(), list.end(), step.to);
      EXPECT_NE(at, list.end()) << "shard " << step.to << " does not hold expert " << Value(*step.evict);
      if (at != list.end()) list.erase(at);
    }
  }
  for (size_t i = 0; loaded && i < steps; ++i) {
    auto& list = after[static_cast<size_t>(Value(plan.steps[i].expert))];
    EXPECT_EQ(std::count(list.begin(), list.end(), plan.steps[i].to), 0);
    list.push_back(plan.steps[i].to);
  }
  return after;
}

TEST(Eplb, CopiesTheHotExpertToTheIdleShard) {
  Case c = StaticShares(4, 2, 1);
  c.tokens = {100, 10, 5, 5};
  const EplbPlan plan = c.Plan();
  ASSERT_EQ(plan.steps.size(), 1u);
  EXPECT_EQ(plan.steps[0].expert, ExpertId{0});
  EXPECT_EQ(plan.steps[0].to, 1);
  EXPECT_FALSE(plan.steps[0].evict.has_value());
  EXPECT_NEAR(plan.imbalance_now, 110.0 / 60, 1e-9);
  EXPECT_NEAR(plan.imbalance_planned, 1, 1e-4);
}

TEST(Eplb, LeavesAloneWhatIsBalanced) {
  EXPECT_TRUE(StaticShares(32, 4, 2).Plan().steps.empty());
  Case idle = StaticShares(32, 4, 2);
  idle.tokens.assign(32, 0);
  EXPECT_TRUE(idle.Plan().steps.empty());
}

TEST(Eplb, PlansNothingThatIsNotWorthIt) {
  Case c = StaticShares(4, 2, 1);
  c.tokens = {60, 60, 50, 50};
  EXPECT_FALSE(c.Plan().steps.empty());
  c.options.gain_min = 0.1;
  EXPECT_TRUE(c.Plan().steps.empty());
}

TEST(Eplb, LetsAColdCopyGoWhereItNeedsItsRoom) {
  Case c = StaticShares(8, 2, 1);
  c.holders[1].push_back(1);  // yesterday's hot expert fills the spare slot
  c.tokens = {1000, 1, 1, 1, 1, 1, 1, 1};
  const EplbPlan plan = c.Plan();
  ASSERT_EQ(plan.steps.size(), 1u);
  EXPECT_EQ(plan.steps[0].expert, ExpertId{0});
  EXPECT_EQ(plan.steps[0].evict, ExpertId{1});
}

TEST(Eplb, WithoutRoomOrRedundantCopiesNothingCanMove) {
  Case c = StaticShares(8, 2, 0);
  c.tokens[0] = 1000;
  EXPECT_TRUE(c.Plan().steps.empty());
}

TEST(Eplb, FrozenShardsKeepWhatTheyHold) {
  Case c = StaticShares(8, 2, 4);
  c.tokens[0] = 1000;
  c.shards[1].frozen = true;
  EXPECT_TRUE(c.Plan().steps.empty());
}

TEST(Eplb, ExpertsWithoutHoldersComeFirstWhateverTheyBring) {
  Case c = StaticShares(8, 4, 1);
  c.holders[2].clear();
  c.holders[3].clear();  // shard 1 is gone
  c.shards[1].frozen = true;
  const EplbPlan plan = c.Plan();
  ASSERT_GE(plan.steps.size(), 2u);
  const ExpertHolders after = After(c.holders, plan, plan.steps.size(), true);
  for (const auto& list : after) EXPECT_FALSE(list.empty());
}

TEST(Eplb, RedundantCopiesMakeRoomForExpertsWithoutHolders) {
  Case c = StaticShares(6, 3, 1);
  c.holders[0].push_back(1);
  c.holders[2].push_back(0);
  c.holders[4].clear();
  c.holders[5].clear();
  c.shards[2].frozen = true;  // it is gone
  const EplbPlan plan = c.Plan();
  ASSERT_EQ(plan.steps.size(), 2u);
  for (const EplbStep& step : plan.steps) EXPECT_TRUE(step.evict.has_value());
}

// Whatever part of a plan is carried out, and wherever between its evictions and its loads it stops.
TEST(Eplb, NoPlanAndNoPartOfOneLosesAnExpertOrOverfillsAShard) {
  std::mt19937 random(7);
  for (int round = 0; round < 40; ++round) {
    const int shards = 2 + static_cast<int>(random() % 7), copies = 1 + static_cast<int>(random() % 2);
    Case c = StaticShares(8 * (1 + static_cast<int>(random() % 6)), shards, static_cast<int>(random() % 4), copies);
    for (int extra = 0; extra < 6; ++extra) {  // copies from earlier plans
      auto& list = c.holders[random() % c.holders.size()];
      const int32_t shard = static_cast<int32_t>(random() % static_cast<unsigned>(shards));
      if (std::count(list.begin(), list.end(), shard) == 0) list.push_back(shard);
    }
    Skew(c, random, 1.2);
    const EplbPlan plan = c.Plan();
    ASSERT_LE(plan.imbalance_planned, plan.imbalance_now + 1e-9);
    const std::vector<int> before = c.Held(c.holders);
    for (size_t steps = 0; steps <= plan.steps.size(); ++steps) {
      for (const auto& list : After(c.holders, plan, steps, false)) ASSERT_GE(static_cast<int>(list.size()), copies);
      const std::vector<int> held = c.Held(After(c.holders, plan, steps, true));
      for (size_t i = 0; i < held.size(); ++i) ASSERT_LE(held[i], std::max(before[i], c.shards[i].slots)) << round;
    }
    const EplbPlan again = c.Plan();
    ASSERT_EQ(again.steps.size(), plan.steps.size()) << "the same input, another plan";
  }
}

// No placement with so many copies can have a lower peak than the mean, nor than an even share of the hottest expert.
TEST(Eplb, ComesCloseToTheBest) {
  std::mt19937 random(11);
  double worst = 1;
  for (int round = 0; round < 100; ++round) {
    const int shards = 4 + static_cast<int>(random() % 5);
    Case c = StaticShares(64, shards, 4);
    for (EplbShard& shard : c.shards) shard.slots += static_cast<int>(random() % 5);  // unlike machines in one pool
    Skew(c, random, 1.0);
    const EplbPlan plan = c.Plan();
    const ExpertHolders after = After(c.holders, plan, plan.steps.size(), true);
    double best = c.Mean();
    for (size_t e = 0; e < after.size(); ++e) best = std::max(best, c.tokens[e] / static_cast<double>(after[e].size()));
    const double peak = plan.imbalance_planned * c.Mean();
    ASSERT_GE(peak, best * (1 - 1e-3));
    ASSERT_LE(peak, best * 1.1) << "round " << round << ", " << shards << " shards, " << plan.steps.size() << " steps";
    worst = std::max(worst, peak / best);
  }
  RecordProperty("peak_over_bound_max", std::to_string(worst));
}

TEST(Eplb, APlanThatIsCarriedOutLeavesNothingToPlan) {
  std::mt19937 random(5);
  for (int round = 0; round < 50; ++round) {
    Case c = StaticShares(32, 4, 3);
    Skew(c, random, 0.8);
    for (int plans = 0;; ++plans) {
      const EplbPlan plan = c.Plan();
      if (plan.steps.empty()) break;
      ASSERT_LT(plans, 3) << "round " << round << ": copies go to and fro";
      c.holders = After(c.holders, plan, plan.steps.size(), true);
    }
  }
}

}  // namespace
}  // namespace conclave
