#include "gateway/routers/balance.h"

#include <numeric>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace conclave {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

std::vector<Candidate> Services(const std::vector<int>& loads) {
  std::vector<Candidate> candidates;
  for (size_t i = 0; i < loads.size(); ++i) candidates.push_back({absl::StrCat("10.0.0.", i, ":7000"), true, loads[i]});
  return candidates;
}

std::vector<int32_t> Prompt(int tokens, int first) {
  std::vector<int32_t> ids(static_cast<size_t>(tokens));
  std::iota(ids.begin(), ids.end(), first);
  return ids;
}

TEST(AffinityKey, IsOfTheLeadingBlocksAndTheSalt) {
  EXPECT_EQ(AffinityKey(Prompt(kAffinityBlockTokens - 1, 0), ""), 0u) << "too short";
  const auto key = [](int tokens, int first = 0, const char* salt = "") {
    return AffinityKey(Prompt(tokens, first), salt);
  };
  EXPECT_NE(key(64), 0u);
  EXPECT_EQ(key(64), key(127)) << "part of a block does not count";
  EXPECT_NE(key(64), key(128));
  EXPECT_EQ(key(256), key(5000)) << "nor does what comes after the first blocks";
  EXPECT_NE(key(256), key(256, 1));
  EXPECT_NE(key(256, 0, "a"), key(256, 0, "b"));
}

TEST(Rank, OneKeyAlwaysGoesToTheSameServiceAndKeysSpread) {
  const auto services = Services({0, 0, 0, 0});
  std::vector<int> count(4);
  for (uint64_t key = 1; key <= 4000; ++key) {
    const std::vector<int> order = Rank(key * 0x9e3779b97f4a7c15u, services);
    ASSERT_EQ(order, Rank(key * 0x9e3779b97f4a7c15u, services));
    ++count[static_cast<size_t>(order[0])];
  }
  for (const int each : count) EXPECT_NEAR(each, 1000, 150);
}

TEST(Rank, AServiceThatGoesMovesOnlyItsOwnKeys) {
  auto services = Services({0, 0, 0});
  int moved = 0;
  for (uint64_t key = 1; key <= 1000; ++key) {
    services[1].usable = true;
    const int before = Rank(key, services)[0];
    services[1].usable = false;
    const int after = Rank(key, services)[0];
    ASSERT_NE(after, 1);
    if (before == 1) {
      ++moved;
    } else {
      ASSERT_EQ(after, before);
    }
  }
  EXPECT_GT(moved, 200);
}

TEST(Rank, AffinityEndsWhereTheLoadIsAboveTheBound) {
  auto services = Services({0, 0});
  uint64_t key = 1;
  while (Rank(key, services)[0] != 0) ++key;
  services[0].load = 2;
  EXPECT_EQ(Rank(key, services)[0], 0) << "a small difference is worth the cache";
  services[0].load = 30;
  services[1].load = 10;
  EXPECT_EQ(Rank(key, services)[0], 1);
  services[1].load = 25;
  EXPECT_EQ(Rank(key, services)[0], 0);
}

// The property of bounded loads: whatever the keys, no service gets much more than its share.
TEST(Rank, OneHotPromptSpreadsOverTheServices) {
  auto services = Services({0, 0, 0, 0});
  for (int i = 0; i < 400; ++i) ++services[static_cast<size_t>(Rank(77, services)[0])].load;
  for (const Candidate& service : services) EXPECT_LE(service.load, 100 * 1.25 + 3) << service.name;
}

TEST(Rank, WithoutAKeyTheLeastLoadedIsFirst) {
  EXPECT_THAT(Rank(0, Services({5, 1, 3})), ElementsAre(1, 2, 0));
  auto services = Services({5, 1, 3});
  services[1].usable = false;
  EXPECT_THAT(Rank(0, services), ElementsAre(2, 0));
  for (Candidate& service : services) service.usable = false;
  EXPECT_THAT(Rank(0, services), IsEmpty());
  EXPECT_THAT(Rank(9, services), IsEmpty());
}

}  // namespace
}  // namespace conclave
