#include "cli/top_view.h"

#include "absl/strings/match.h"
#include "absl/strings/str_split.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace conclave {
namespace {

RouterSnapshot Router(const std::vector<uint32_t>& tokens, uint64_t rows) {
  RouterSnapshot router;
  router.address = "127.0.0.1:7000";
  router.status.set_model_id("demo");
  v1::ShardState* shard = router.experts.add_shards();
  shard->set_name("expert-0");
  shard->set_address("127.0.0.1:7001");
  shard->set_healthy(true);
  shard->set_rows_total(rows);
  for (int layer = 0; layer < 3; ++layer) {
    v1::ShardLayer* held = shard->add_layers();
    held->set_layer(layer);
    held->add_experts(0);
  }
  v1::LayerExpertUse* use = router.experts.add_use();
  use->set_layer(1);
  for (const uint32_t count : tokens) use->add_tokens(count);
  return router;
}

ClusterSnapshot At(double seconds, std::vector<RouterSnapshot> routers) {
  return {absl::UnixEpoch() + absl::Seconds(seconds), std::move(routers)};
}

TEST(TopViewTest, ActivityIsTheGrowthBetweenTwoSnapshotsOverAllAttentionServices) {
  const ClusterSnapshot before = At(0, {Router({10, 0}, 10), Router({0, 5}, 5)});
  const ClusterSnapshot now = At(2, {Router({14, 1}, 15), Router({0, 9}, 9)});
  const ClusterActivity activity = ActivityBetween(&before, now);
  EXPECT_EQ(activity.seconds, 2);
  EXPECT_THAT(activity.layers.at(1), testing::ElementsAre(4, 5));
  ASSERT_EQ(activity.shards.size(), 1u);
  EXPECT_EQ(activity.shards[0].rows, 9u);
  EXPECT_EQ(activity.shards[0].experts_held(), 3);
}

TEST(TopViewTest, AServiceThatStartedAnewCountsFromZero) {
  const ClusterSnapshot before = At(0, {Router({100, 100}, 100)});
  const ClusterSnapshot now = At(1, {Router({3, 0}, 3)});
  const ClusterActivity activity = ActivityBetween(&before, now);
  EXPECT_THAT(activity.layers.at(1), testing::ElementsAre(3, 0));
  EXPECT_EQ(activity.shards[0].rows, 3u);
}

TEST(TopViewTest, AServiceThatWasDownBeforeIsShownSinceItsStart) {
  ClusterSnapshot before = At(0, {Router({1, 1}, 1)});
  before.routers[0].error = absl::UnavailableError("gone");
  EXPECT_THAT(ActivityBetween(&before, At(1, {Router({3, 0}, 3)})).layers.at(1), testing::ElementsAre(3, 0));
}

TEST(TopViewTest, ImbalanceIsTheLargestOverTheMean) {
  EXPECT_EQ(Imbalance({5, 5, 5, 5}), 1);
  EXPECT_EQ(Imbalance({0, 8, 0, 0}), 4);
  EXPECT_EQ(Imbalance({0, 0}), 0);
}

TEST(TopViewTest, AShardIsFailingWhereOneAttentionServiceSaysSo) {
  RouterSnapshot second = Router({0, 0}, 0);
  second.experts.mutable_shards(0)->set_healthy(false);
  const std::string view = TopView(nullptr, At(0, {Router({1, 1}, 2), second}), 100, 10, false);
  EXPECT_TRUE(absl::StrContains(view, "failing")) << view;
  EXPECT_FALSE(absl::StrContains(view, "\033")) << "no colours were allowed";
}

TEST(TopViewTest, AShardIsAvoidedWhereOneAttentionServiceLeavesItAloneAndNoneFailsToReachIt) {
  const auto view = [](bool first_reaches, bool second_reaches) {
    std::vector<RouterSnapshot> routers = {Router({1, 1}, 2), Router({0, 0}, 0)};
    routers[0].experts.mutable_shards(0)->set_healthy(first_reaches);
    routers[1].experts.mutable_shards(0)->set_healthy(false);
    routers[1].experts.mutable_shards(0)->set_avoided(second_reaches);
    return TopView(nullptr, At(0, routers), 100, 10, false);
  };
  EXPECT_TRUE(absl::StrContains(view(true, true), "avoided"));
  EXPECT_TRUE(absl::StrContains(view(true, false), "failing"));
  EXPECT_TRUE(absl::StrContains(view(false, true), "failing"));
}

TEST(TopViewTest, AServiceThatDoesNotAnswerIsShownWithItsReason) {
  RouterSnapshot down;
  down.address = "127.0.0.1:7009";
  down.error = absl::UnavailableError("connection refused");
  const std::string view = TopView(nullptr, At(0, {Router({1, 1}, 2), down}), 100, 10, false);
  EXPECT_TRUE(absl::StrContains(view, "127.0.0.1:7009         down: connection refused")) << view;
}

TEST(TopViewTest, ManyLayersAndExpertsStayWithinTheScreen) {
  RouterSnapshot router = Router({}, 0);
  router.experts.clear_use();
  for (int layer = 0; layer < 50; ++layer) {
    v1::LayerExpertUse* use = router.experts.add_use();
    use->set_layer(layer);
    for (int expert = 0; expert < 384; ++expert) use->add_tokens(static_cast<uint32_t>(expert));
  }
  const std::string view = TopView(nullptr, At(0, {router}), 80, 5, false);
  EXPECT_TRUE(absl::StrContains(view, "… and 45 layers more")) << view;
  for (const absl::string_view line : absl::StrSplit(view, '\n')) {
    int characters = 0;
    for (const char c : line) characters += (c & 0xC0) != 0x80;  // bytes that begin a character
    EXPECT_LE(characters, 82) << line;
  }
}

TEST(TopViewTest, JsonHoldsTheSame) {
  EXPECT_EQ(
      TopJson(nullptr, At(0, {Router({3, 1}, 4)})),
      R"({"seconds": 0, "attention_services": [{"address": "127.0.0.1:7000", "up": true, "model": "demo", )"
      R"("running": 0, "queued": 0, "kv_blocks_used": 0, "kv_blocks_total": 0, "placement_epoch": 0}], )"
      R"("shards": [{"name": "expert-0", "address": "127.0.0.1:7001", "healthy": true, "avoided": false, )"
      R"("experts": 3, "rows": 4}], )"
      R"("layers": [{"layer": 1, "imbalance": 1.5, "tokens": [3, 1]}]})");
}

}  // namespace
}  // namespace conclave
