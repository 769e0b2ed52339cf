#include "moe/checkpoint/inspect.h"

#include <cmath>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "moe/checkpoint/checkpoint.h"
#include "moe/checkpoint/make_model.h"
#include "moe/checkpoint/model_config.h"
#include "moe/checkpoint/published_configs.h"
#include "moe/checkpoint/test_files.h"
#include "nlohmann/json.hpp"

namespace conclave {
namespace {

using testing::HasSubstr;

ParameterCounts Counts(const char* config) {
  const auto spec = ParseModelConfig(config, "");
  EXPECT_TRUE(spec.ok()) << spec.status();
  return CountParameters(*spec);
}

TEST(CountParameters, MatchesThePublishedNumbers) {
  const ParameterCounts v3 = Counts(published_configs::kDeepSeekV3);
  EXPECT_EQ(std::round(v3.total / 1e9), 671);
  EXPECT_EQ(std::round(v3.active / 1e9), 37);
  EXPECT_NEAR(v3.mtp / 1e9, 11.5, 0.2);  // the published 14 G count copies of embedding and head
  const ParameterCounts v2 = Counts(published_configs::kDeepSeekV2);
  EXPECT_EQ(std::round(v2.total / 1e9), 236);
  EXPECT_EQ(std::round(v2.active / 1e9), 21);
  const ParameterCounts lite = Counts(published_configs::kDeepSeekV2Lite);
  EXPECT_EQ(std::round(lite.total / 1e8), 157);
  EXPECT_NEAR(lite.active / 1e9, 2.4, 0.1);
  const ParameterCounts kimi = Counts(published_configs::kKimiK2);
  EXPECT_NEAR(kimi.total / 1e12, 1.03, 0.01);
  EXPECT_EQ(std::round(kimi.active / 1e9), 32);
  const ParameterCounts moonlight = Counts(published_configs::kMoonlight);
  EXPECT_EQ(std::round(moonlight.total / 1e9), 16);
  EXPECT_NEAR(moonlight.active / 1e9, 2.5, 0.5);
}

TEST(CountParameters, OfThePresets) {
  EXPECT_NEAR(CountParameters(*PresetSpec("small")).total / 1e9, 1.234, 0.001);
  const ParameterCounts slice = CountParameters(*PresetSpec("v3-slice"));
  EXPECT_NEAR(slice.total / 1e9, 25.5, 0.3);
  EXPECT_EQ(slice.mtp, 0);
}

TEST(CountParameters, TheHeadIsActiveWhetherItIsTheEmbeddingOrNot) {
  ModelSpec spec = *PresetSpec("small");
  const ParameterCounts apart = CountParameters(spec);
  spec.tie_word_embeddings = true;
  const ParameterCounts tied = CountParameters(spec);
  EXPECT_EQ(apart.head, int64_t{spec.vocab} * spec.hidden);
  EXPECT_EQ(tied.head, apart.head);
  EXPECT_EQ(tied.active, apart.active);
  EXPECT_EQ(tied.total, apart.total - apart.head);
}

TEST(PrefillOperations, CountTheHeadOnceAPrompt) {
  ParameterCounts counts;
  counts.active = 1000;
  counts.head = 300;
  EXPECT_EQ(PrefillOperations(counts, 1), 2 * 1000);
  EXPECT_EQ(PrefillOperations(counts, 2), 2 * (2 * 700 + 300));
  EXPECT_EQ(PrefillOperations(counts, 512), 2 * (512 * 700 + 300));
}

// A slice of three layers is a third head.
TEST(PrefillOperations, OfASliceAreFarFewerThanWithAHeadForEveryToken) {
  const ParameterCounts slice = CountParameters(*PresetSpec("v3-slice"));
  EXPECT_NEAR(static_cast<double>(slice.head) / 1e9, 0.927, 0.001);  // 129,280 x 7,168
  EXPECT_NEAR(PrefillOperations(slice, 512) / 512 * 1e-9, 3.51, 0.01);
  EXPECT_NEAR(2 * slice.active * 1e-9, 5.36, 0.01);
}

class InspectTest : public testing::Test {
 protected:
  std::unique_ptr<Checkpoint> Make(const std::string& dtype) {
    MakeModelOptions options;
    options.preset = "tiny";
    options.dtype = dtype;
    options.out = test_files::MakeDirectory("inspect");
    EXPECT_TRUE(MakeModel(options, [](int64_t, int64_t) {}).ok());
    auto checkpoint = Checkpoint::Open(options.out);
    EXPECT_TRUE(checkpoint.ok()) << checkpoint.status();
    return *std::move(checkpoint);
  }
};

TEST_F(InspectTest, BytesAddUp) {
  for (const char* dtype : {"bf16", "fp8"}) {
    const auto checkpoint = Make(dtype);
    const ModelReport report = Inspect(*checkpoint, 3);
    int64_t by_dtype = 0, by_shard = 0;
    for (const auto& [name, bytes] : report.bytes_by_dtype) by_dtype += bytes;
    for (const ShardReport& shard : report.shards) by_shard += shard.expert_bytes;
    EXPECT_EQ(by_dtype, report.bytes_total);
    EXPECT_EQ(by_shard, report.expert_bytes);
    EXPECT_EQ(report.shards.size(), 3u);
    EXPECT_EQ(
        report.shards[0].experts_per_layer + report.shards[1].experts_per_layer + report.shards[2].experts_per_layer,
        16);
    EXPECT_GT(report.mtp_bytes, 0);
    EXPECT_GT(report.active_bytes, 0);
    EXPECT_LT(report.active_bytes, report.bytes_total);
  }
}

TEST_F(InspectTest, BytesOfABf16ModelAreTwiceItsParameters) {
  const auto checkpoint = Make("bf16");
  const ModelReport report = Inspect(*checkpoint, 1);
  EXPECT_EQ(report.expert_bytes, 2 * report.parameters.experts);
  const int64_t biases = 16 * 4;  // four layers with the MTP layer's, two more bytes an expert
  EXPECT_EQ(report.bytes_total, 2 * (report.parameters.total + report.parameters.mtp) + biases * 2);
  EXPECT_EQ(report.cache_bytes_per_token, 4 * 40 * 2);
}

TEST_F(InspectTest, MoreShardsThanExperts) {
  const ModelReport report = Inspect(*Make("bf16"), 20);
  int held = 0;
  for (const ShardReport& shard : report.shards) held += shard.experts_per_layer;
  EXPECT_EQ(held, 16);
}

TEST_F(InspectTest, PrintsTextAndJson) {
  const ModelReport report = Inspect(*Make("fp8"), 2);
  EXPECT_THAT(ToText(report), HasSubstr("DeepSeek-V3 (deepseek_v3)"));
  EXPECT_THAT(ToText(report), HasSubstr("F8_E4M3"));
  const std::string text = ToJson(report);
  EXPECT_EQ(text.find('\n'), std::string::npos);
  const nlohmann::json json = nlohmann::json::parse(text);
  EXPECT_EQ(json["experts_per_layer"], 16);
  EXPECT_EQ(json["shards"].size(), 2u);
  EXPECT_EQ(json["shards"][1]["experts_per_layer"], 8);
  EXPECT_EQ(json["parameters_total"], report.parameters.total);
}

}  // namespace
}  // namespace conclave
