#include "gateway/cluster/cluster_map.h"

#include <atomic>

#include "absl/time/clock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace conclave {
namespace {

RouterSnapshot Router(uint32_t tokens) {
  RouterSnapshot router;
  router.address = "127.0.0.1:7000";
  router.status.set_requests_running(3);
  router.experts.set_placement_epoch(7);
  v1::ShardState* shard = router.experts.add_shards();
  shard->set_name("expert-0");
  shard->set_healthy(true);
  shard->set_rows_total(tokens);
  v1::ShardLayer* held = shard->add_layers();
  held->set_layer(1);
  held->add_experts(0);
  held->add_experts(1);
  v1::LayerExpertUse* use = router.experts.add_use();
  use->set_layer(1);
  use->add_tokens(tokens);
  use->add_tokens(0);
  return router;
}

class FakeProbe final : public ClusterProbe {
 public:
  explicit FakeProbe(std::atomic<int>* taken) : taken_(taken) {}
  ClusterSnapshot Take(absl::Duration) override {
    const uint32_t tokens = static_cast<uint32_t>(++*taken_);
    return {absl::Now(), {Router(tokens)}};
  }

 private:
  std::atomic<int>* taken_;
};

nlohmann::json Eventually(ClusterMap& map, const std::function<bool(const nlohmann::json&)>& right) {
  nlohmann::json json;
  for (int i = 0; i < 1000; ++i) {
    json = nlohmann::json::parse(*map.Json());
    if (right(json)) return json;
    absl::SleepFor(absl::Milliseconds(10));
  }
  return json;
}

TEST(ClusterMapTest, TheStateIsAskedForOnceSomebodyLooks) {
  std::atomic<int> taken{0};
  ClusterMapOptions options;
  options.model = "demo";
  options.experts_per_token = 4;
  options.refresh_interval = absl::Milliseconds(1);
  const auto map = ClusterMap::Create(options, std::make_unique<FakeProbe>(&taken));
  absl::SleepFor(absl::Milliseconds(20));
  EXPECT_EQ(taken.load(), 0) << "nobody has looked yet";
  EXPECT_TRUE(nlohmann::json::parse(*map->Json())["attention_services"].empty());
  const auto json = Eventually(*map, [](const auto& j) { return !j["layers"].empty(); });
  EXPECT_EQ(json["model"], "demo");
  EXPECT_EQ(json["placement_epoch"], 7);
  EXPECT_EQ(json["experts_per_token"], 4);
  EXPECT_EQ(json["attention_services"][0]["running"], 3);
  EXPECT_EQ(json["shards"][0]["holdings"][0]["experts"], nlohmann::json({0, 1}));
  EXPECT_GE(json["layers"][0]["tokens"][0], 1);
  const auto later = Eventually(*map, [&](const auto& j) { return j["layers"] != json["layers"]; });
  EXPECT_GT(later["layers"][0]["tokens"][0], json["layers"][0]["tokens"][0]);
}

TEST(ClusterMapTest, ManyWhoLookCostTheServicesNoMore) {
  std::atomic<int> taken{0};
  ClusterMapOptions options;
  options.refresh_interval = absl::Hours(1);
  const auto map = ClusterMap::Create(options, std::make_unique<FakeProbe>(&taken));
  Eventually(*map, [](const auto& j) { return !j["layers"].empty(); });
  for (int i = 0; i < 10'000; ++i) map->Json();
  EXPECT_EQ(taken.load(), 1);
}

TEST(ClusterMapTest, NobodyLooksAnyMoreAndTheServicesAreLeftAlone) {
  std::atomic<int> taken{0};
  ClusterMapOptions options;
  options.refresh_interval = absl::Milliseconds(1);
  options.idle_after = absl::Milliseconds(30);
  const auto map = ClusterMap::Create(options, std::make_unique<FakeProbe>(&taken));
  map->Json();
  for (int i = 0, before = -1; i < 1000 && taken.load() != before; ++i) {
    before = taken.load();
    absl::SleepFor(absl::Milliseconds(100));
  }
  const int settled = taken.load();
  absl::SleepFor(absl::Milliseconds(100));
  EXPECT_EQ(taken.load(), settled);
}

TEST(ClusterMapTest, AServiceThatIsDownIsShownWithItsReason) {
  ClusterSnapshot snapshot;
  snapshot.routers.push_back({"127.0.0.1:7000", absl::UnavailableError("no answer"), {}, {}});
  const auto json = nlohmann::json::parse(ClusterMapJson({}, snapshot));
  EXPECT_EQ(json["attention_services"][0]["up"], false);
  EXPECT_EQ(json["attention_services"][0]["error"], "no answer");
}

}  // namespace
}  // namespace conclave
