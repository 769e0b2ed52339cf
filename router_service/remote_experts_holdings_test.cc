// What shards hold changes while they serve: somebody moves experts, or keeps copies of them.
#include <algorithm>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "moe/base/ids.h"
#include "moe/placement/placement.h"
#include "moe/transport/fake_expert_handler.h"
#include "router_service/remote_experts.h"
#include "router_service/remote_experts_testing.h"

namespace conclave {
namespace {

TEST_F(RemoteExpertsTest, AStaleEpochIsLearntAndTheRowsPlannedAnew) {
  Start(2);
  Connect();
  ASSERT_EQ(RunOnce(Rows(6, 1)), absl::OkStatus());
  // Another router asked for more.
  ASSERT_TRUE(handlers_[0]->LoadExperts(std::vector<LayerHolding>{{LayerId{1}, {ExpertId{15}}}}).ok());
  EXPECT_EQ(RunOnce(Rows(6, 2)), absl::OkStatus());
  EXPECT_EQ(pool_->placement()->Holders(LayerId{1}, ExpertId{15}).size(), 2u);
}

// Nothing tells the router but the shard that refuses the row: who took the expert has not been asked for anything yet.
TEST_F(RemoteExpertsTest, AnExpertThatMovedIsFoundWithoutBeingLoadedAgain) {
  Start(4);
  options_.timeout = absl::Seconds(5);
  Connect();
  control_->SetFull();
  for (auto& handler : handlers_) handler->CheckEpochs();
  Rows rows(2, 1);  // to experts of shard 3 alone
  for (size_t i = 0; i < rows.experts.size(); ++i) rows.experts[i] = 12 + static_cast<int32_t>(i) % kTopK;
  ASSERT_EQ(RunOnce(rows), absl::OkStatus());
  const std::vector<LayerHolding> moved = {{LayerId{1}, {ExpertId{13}, ExpertId{15}}}};
  ASSERT_TRUE(handlers_[1]->LoadExperts(moved).ok());
  ASSERT_TRUE(handlers_[3]->UnloadExperts(moved, 0).ok());
  EXPECT_EQ(RunOnce(rows), absl::OkStatus());
  EXPECT_EQ(pool_->placement()->Holders(LayerId{1}, ExpertId{15}), std::vector<ShardId>{ShardId{1}});
}

// Steps of one row, as one stream makes them.
TEST_F(RemoteExpertsTest, CopiesOfAnExpertShareItsRowsEvenlyInTheLongRun) {
  Start(2, /*copies=*/2);
  Connect();
  for (uint32_t seed = 0; seed < 200; ++seed) {
    Rows rows(1, seed);
    std::copy_n(std::vector<int32_t>{3, 5, 9, 11}.begin(), kTopK, rows.experts.begin());
    ASSERT_EQ(RunOnce(rows), absl::OkStatus());
  }
  for (const int32_t expert : {3, 11}) {
    const double share = static_cast<double>(handlers_[0]->tokens(LayerId{1}, expert)) / 200;
    EXPECT_NEAR(share, 0.5, 0.15) << expert;
  }
}

}  // namespace
}  // namespace conclave
