#include "placement_service/load_meter.h"

#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace conclave {
namespace {

constexpr LayerId kLayer{3};

TEST(LoadMeter, CountsFromTheFirstReadingOn) {
  LoadMeter meter(absl::Seconds(60));
  const absl::Time start = absl::UnixEpoch();
  meter.Read("a", std::vector<LayerTokens>{{kLayer, {100, 7}}}, start);
  EXPECT_EQ(meter.Tokens("a", kLayer, start), (std::vector<double>{0, 0}));
  meter.Read("a", std::vector<LayerTokens>{{kLayer, {130, 7}}}, start);
  EXPECT_EQ(meter.Tokens("a", kLayer, start), (std::vector<double>{30, 0}));
  EXPECT_TRUE(meter.Tokens("b", kLayer, start).empty());
}

TEST(LoadMeter, OrFromTheShardsStart) {
  LoadMeter meter(absl::Seconds(60), /*since_start=*/true);
  meter.Read("a", std::vector<LayerTokens>{{kLayer, {100, 7}}}, absl::UnixEpoch());
  EXPECT_EQ(meter.Tokens("a", kLayer, absl::UnixEpoch()), (std::vector<double>{100, 7}));
}

TEST(LoadMeter, ForgetsHalfInAHalfLife) {
  LoadMeter meter(absl::Seconds(60), true);
  absl::Time now = absl::UnixEpoch();
  meter.Read("a", std::vector<LayerTokens>{{kLayer, {64}}}, now);
  now += absl::Seconds(60);
  EXPECT_DOUBLE_EQ(meter.Tokens("a", kLayer, now)[0], 32);
  meter.Read("a", std::vector<LayerTokens>{{kLayer, {74}}}, now);
  EXPECT_DOUBLE_EQ(meter.Tokens("a", kLayer, now)[0], 42);
  EXPECT_DOUBLE_EQ(meter.Tokens("a", kLayer, now + absl::Seconds(120))[0], 10.5);
}

TEST(LoadMeter, CountersThatBeginAnewAreThoseOfANewProcess) {
  LoadMeter meter(absl::Hours(1000));
  const absl::Time now = absl::UnixEpoch();
  meter.Read("a", std::vector<LayerTokens>{{kLayer, {100, 50}}}, now);
  meter.Read("a", std::vector<LayerTokens>{{kLayer, {5, 60}}}, now);
  EXPECT_EQ(meter.Tokens("a", kLayer, now), (std::vector<double>{5, 60}));
}

// Shards' addresses come and go for as long as the process lives.
TEST(LoadMeter, KeepsNothingOfAddressesThatAreGone) {
  LoadMeter meter(absl::Seconds(60), /*since_start=*/true);
  const absl::Time now = absl::UnixEpoch();
  for (const char* address : {"a", "b"}) meter.Read(address, std::vector<LayerTokens>{{kLayer, {100}}}, now);
  meter.Keep(std::vector<std::string>{"b"});
  EXPECT_TRUE(meter.Tokens("a", kLayer, now).empty());
  EXPECT_EQ(meter.Tokens("b", kLayer, now), std::vector<double>{100});
}

}  // namespace
}  // namespace conclave
