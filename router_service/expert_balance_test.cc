#include "router_service/expert_balance.h"

#include <memory>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "moe/base/clock.h"
#include "moe/base/ids.h"
#include "moe/metrics/metrics.h"
#include "router_service/layer_shard_tokens.h"
#include "router_service/token_window.h"

namespace conclave {
namespace {

using ::testing::HasSubstr;

TEST(ExpertBalance, BalancednessIsTheMeanOverTheLargest) {
  EXPECT_EQ(Balancedness({{5, 5, 5, 5}}), 1);
  EXPECT_EQ(Balancedness({{8, 0, 0, 0}}), 0.25);
  EXPECT_EQ(Balancedness({{6, 2}}), 4.0 / 6);
  EXPECT_EQ(Balancedness({{0, 0}}), 1);
}

TEST(ExpertBalance, TheHottestComeFirstAcrossLayersOfAllSizes) {
  // 6 of 8 on one of four is three times its part, 9 of 10 on one of two only 1.8 times.
  const auto hottest = HottestExperts({{}, {6, 1, 1, 0}, {1, 9}}, 3);
  ASSERT_EQ(hottest.size(), 3u);
  EXPECT_EQ(hottest[0].layer, 1);
  EXPECT_EQ(hottest[0].expert, 0);
  EXPECT_EQ(hottest[0].share, 0.75);
  EXPECT_EQ(hottest[1].layer, 2);
  EXPECT_EQ(hottest[1].expert, 1);
  EXPECT_EQ(HottestExperts({{}, {6, 1, 1, 0}, {1, 9}}, 100).size(), 5u) << "one has no tokens";
  EXPECT_TRUE(HottestExperts({{}, {0, 0}}, 3).empty());
}

TEST(TokenWindow, ForgetsWhatIsOlderThanAMinuteAndKeepsHalfAMinute) {
  FakeClock clock;
  TokenWindow window(&clock);
  const auto at = [&](uint64_t total) { return window.Update({{total}})[0][0]; };
  EXPECT_EQ(at(100), 100u) << "all since the start";
  clock.Advance(absl::Seconds(10));
  EXPECT_EQ(at(110), 110u);
  clock.Advance(absl::Seconds(25));
  EXPECT_EQ(at(120), 20u) << "since the first look";
  clock.Advance(absl::Seconds(20));
  EXPECT_EQ(at(130), 30u);
  clock.Advance(absl::Seconds(20));
  EXPECT_EQ(at(140), 20u) << "since the look 40 seconds ago";
}

TEST(LayerShardTokens, AreShownByLayerAndShardWithTheirBalance) {
  const auto metrics = Metrics::Create();
  LayerShardTokens tokens({LayerId{1}, LayerId{3}}, {"a", "b"}, metrics.get());
  tokens.Add(LayerId{1}, ShardId{0}, 6);
  tokens.Add(LayerId{3}, ShardId{1}, 4);
  tokens.Add(LayerId{1}, ShardId{1}, 2);
  for (int scrape = 0; scrape < 2; ++scrape) {
    const std::string text = metrics->Text();
    EXPECT_THAT(text, HasSubstr("conclave_router_layer_shard_tokens_total{layer=\"1\",shard=\"a\"} 6\n"));
    EXPECT_THAT(text, HasSubstr("conclave_router_layer_shard_tokens_total{layer=\"1\",shard=\"b\"} 2\n"));
    EXPECT_THAT(text, HasSubstr("conclave_router_layer_shard_tokens_total{layer=\"3\",shard=\"a\"} 0\n"));
    EXPECT_THAT(text, HasSubstr("conclave_router_layer_balancedness{layer=\"3\",of=\"shards\"} 0.5\n"));
  }
  LayerShardTokens silent({LayerId{1}}, {"a"}, nullptr);
  silent.Add(LayerId{1}, ShardId{0}, 1);
}

}  // namespace
}  // namespace conclave
