#include "expert_service/expert_store.h"

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "expert_service/test_model.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "moe/base/ids.h"
#include "moe/checkpoint/model_spec.h"

namespace conclave {
namespace {

using ::testing::HasSubstr;

TEST(ExpertStore, ShardsTogetherHoldEveryExpertOnce) {
  const ModelSpec& spec = DemoModel().spec();
  const auto whole = ExpertStore::Create(DemoModel(), 0, 1);
  ASSERT_TRUE(whole.ok()) << whole.status();
  EXPECT_EQ((*whole)->experts(), int64_t{spec.moe_layers()} * spec.gate.experts);
  for (const int shards : {2, 3, 5, 40}) {
    int64_t bytes = 0;
    std::vector<int> holders(static_cast<size_t>(spec.layers) * spec.gate.experts);
    for (int i = 0; i < shards; ++i) {
      const auto store = ExpertStore::Create(DemoModel(), i, shards);
      ASSERT_TRUE(store.ok()) << store.status();
      bytes += (*store)->stored_bytes();
      EXPECT_EQ((*store)->holdings().size(), static_cast<size_t>(spec.moe_layers()));
      for (const LayerHolding& holding : (*store)->holdings()) {
        for (const ExpertId expert : holding.experts) {
          EXPECT_NE((*store)->Find(holding.layer, expert), nullptr);
          ++holders[static_cast<size_t>(Value(holding.layer)) * spec.gate.experts + Value(expert)];
        }
      }
    }
    EXPECT_EQ(bytes, (*whole)->stored_bytes());
    for (size_t i = 0; i < holders.size(); ++i) {
      EXPECT_EQ(holders[i], spec.IsMoe(LayerId{static_cast<int32_t>(i / spec.gate.experts)}) ? 1 : 0);
    }
  }
}

TEST(ExpertStore, FindsOnlyWhatItHolds) {
  const auto store = ExpertStore::Create(DemoModel(), 1, 4);
  ASSERT_TRUE(store.ok()) << store.status();
  const LayerId layer = (*store)->holdings().front().layer;
  EXPECT_EQ((*store)->Find(layer, ExpertId{7}), nullptr);
  EXPECT_NE((*store)->Find(layer, ExpertId{8}), nullptr);
  EXPECT_NE((*store)->Find(layer, ExpertId{15}), nullptr);
  EXPECT_EQ((*store)->Find(layer, ExpertId{16}), nullptr);
  EXPECT_EQ((*store)->Find(layer, ExpertId{-1}), nullptr);
  EXPECT_EQ((*store)->Find(LayerId{0}, ExpertId{8}), nullptr) << "the first layer is dense";
  EXPECT_EQ((*store)->Summary(layer), "layer 1: 8-15");
  EXPECT_EQ((*store)->Summary(LayerId{0}), "layer 0 routes to no experts");
}

TEST(ExpertStore, ReportsHowFarLoadingIs) {
  const auto store = ExpertStore::Create(DemoModel(), 0, 4);
  ASSERT_TRUE(store.ok()) << store.status();
  std::vector<int64_t> seen;
  const absl::Status status = (*store)->LoadAll([&](int64_t loaded, int64_t total, int64_t bytes) {
    EXPECT_EQ(total, (*store)->experts());
    EXPECT_EQ(bytes * total, (*store)->stored_bytes() * loaded);
    seen.push_back(loaded);
  });
  ASSERT_TRUE(status.ok()) << status;
  ASSERT_EQ(seen.size(), static_cast<size_t>((*store)->experts()) + 1);
  EXPECT_EQ(seen.front(), 0);
  EXPECT_EQ(seen.back(), (*store)->experts());
}

TEST(ExpertStore, HoldsFurtherExpertsWhenAsked) {
  const auto store = ExpertStore::Create(DemoModel(), 0, 4);  // experts 0-7
  ASSERT_TRUE(store.ok()) << store.status();
  const int64_t bytes = (*store)->stored_bytes(), experts = (*store)->experts();
  const FfnWeights* const before = (*store)->Find(LayerId{2}, ExpertId{3});
  const auto fresh = (*store)->Hold(
      std::vector<LayerHolding>{{LayerId{2}, {ExpertId{30}, ExpertId{3}, ExpertId{9}}}, {LayerId{5}, {ExpertId{8}}}},
      0);
  ASSERT_TRUE(fresh.ok()) << fresh.status();
  ASSERT_EQ(fresh->size(), 2u);
  EXPECT_EQ((*fresh)[0].experts, (std::vector<ExpertId>{ExpertId{9}, ExpertId{30}})) << "expert 3 is held already";
  EXPECT_EQ((*store)->experts(), experts + 3);
  EXPECT_EQ((*store)->stored_bytes(), bytes + 3 * (bytes / experts));
  EXPECT_EQ((*store)->Find(LayerId{2}, ExpertId{3}), before);
  EXPECT_NE((*store)->Find(LayerId{5}, ExpertId{8}), nullptr);
  EXPECT_EQ((*store)->Find(LayerId{2}, ExpertId{8}), nullptr);
  EXPECT_EQ((*store)->Summary(LayerId{2}), "layer 2: 0-7, 9, 30");
  EXPECT_TRUE((*store)->Load((*fresh)[0]).ok());
}

TEST(ExpertStore, RefusesWhatTheModelLacksOrMemoryForbidsAndStaysAsItWas) {
  const auto store = ExpertStore::Create(DemoModel(), 0, 4);
  ASSERT_TRUE(store.ok()) << store.status();
  const int64_t bytes = (*store)->stored_bytes(), experts = (*store)->experts();
  const auto refuses = [&](absl::StatusCode code, LayerHolding asked, int64_t bytes_max) {
    const auto fresh = (*store)->Hold(std::vector<LayerHolding>{{LayerId{2}, {ExpertId{9}}}, asked}, bytes_max);
    EXPECT_EQ(fresh.status().code(), code) << fresh.status();
    EXPECT_EQ((*store)->experts(), experts);
    EXPECT_EQ((*store)->stored_bytes(), bytes);
  };
  refuses(absl::StatusCode::kInvalidArgument, {LayerId{0}, {ExpertId{1}}}, 0);
  refuses(absl::StatusCode::kInvalidArgument, {LayerId{-1}, {ExpertId{1}}}, 0);
  refuses(absl::StatusCode::kInvalidArgument, {LayerId{99}, {ExpertId{1}}}, 0);
  refuses(absl::StatusCode::kInvalidArgument, {LayerId{3}, {ExpertId{32}}}, 0);
  refuses(absl::StatusCode::kInvalidArgument, {LayerId{3}, {ExpertId{-1}}}, 0);
  refuses(absl::StatusCode::kResourceExhausted, {LayerId{3}, {ExpertId{9}}}, bytes + bytes / experts);
  EXPECT_TRUE((*store)->Hold(std::vector<LayerHolding>{{LayerId{2}, {ExpertId{9}}}}, bytes + bytes / experts).ok());
}

TEST(ExpertStore, NamesAShardThatCannotBe) {
  EXPECT_THAT(std::string(ExpertStore::Create(DemoModel(), 4096, 4).status().message()),
              HasSubstr("shard-index: 4096"));
  EXPECT_THAT(std::string(ExpertStore::Create(DemoModel(), -1, 4).status().message()), HasSubstr("shard-index: -1"));
  EXPECT_THAT(std::string(ExpertStore::Create(DemoModel(), 0, 0).status().message()), HasSubstr("shard-count: 0"));
  EXPECT_THAT(std::string(ExpertStore::Create(DemoModel(), 0, 2, 3).status().message()), HasSubstr("replicas: 3"));
  EXPECT_THAT(std::string(ExpertStore::Create(DemoModel(), 0, 2, 0).status().message()), HasSubstr("replicas: 0"));
}

}  // namespace
}  // namespace conclave
