#include "router_service/shard_gathering.h"

#include <deque>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "moe/base/ids.h"

namespace conclave {
namespace {

using ::testing::HasSubstr;

// Shards that become ready, or say that they load, at given times.
class ScheduledControl final : public ShardControl {
 public:
  explicit ScheduledControl(FakeClock& clock) : clock_(clock) {}
  void Describe(ShardId shard, absl::Duration) override {
    const absl::Time now = clock_.Now();
    ShardNews news{shard, false, absl::UnavailableError("connection refused")};
    if (now >= loads_at[Value(shard)])
      news.description = absl::UnavailableError(absl::StrCat(kShardNotReady, ": 3 of 8"));
    if (now >= ready_at[Value(shard)]) {
      news.description = ShardDescription{};
      news.description->name = absl::StrCat("expert-", Value(shard));
      news.description->hidden = 8;
    }
    if (other_model == Value(shard)) news.description = absl::FailedPreconditionError("another model");
    news_.push_back(std::move(news));
  }
  void LoadExperts(ShardId, const std::vector<LayerHolding>&, absl::Duration) override {}
  std::optional<ShardNews> Next() override {
    if (news_.empty()) return std::nullopt;
    ShardNews news = news_.front();
    news_.pop_front();
    return news;
  }
  std::map<int, absl::Time> loads_at, ready_at;
  int other_model = -1;

 private:
  FakeClock& clock_;
  std::deque<ShardNews> news_;
};

class GatherShardsTest : public testing::Test {
 protected:
  GatherShardsTest() {
    for (int i = 0; i < 3; ++i) control_.loads_at[i] = control_.ready_at[i] = absl::InfiniteFuture();
  }
  absl::StatusOr<std::vector<ShardDescription>> Gather() {
    options_.clock = &clock_;
    return GatherShards(control_, {"a:1", "b:2", "c:3"}, options_, [&](absl::Duration d) { clock_.Advance(d); });
  }
  absl::Time At(int seconds) { return absl::UnixEpoch() + absl::Seconds(seconds); }
  FakeClock clock_;
  ScheduledControl control_{clock_};
  ShardGatheringOptions options_;
};

TEST_F(GatherShardsTest, ReturnsWhenTheLastOneIsReady) {
  for (int i = 0; i < 3; ++i) control_.ready_at[i] = At(3 - i);
  const auto shards = Gather();
  ASSERT_TRUE(shards.ok()) << shards.status();
  EXPECT_EQ((*shards)[2].name, "expert-2");
  EXPECT_GE(clock_.Now(), At(3));
  EXPECT_LT(clock_.Now(), At(4));
}

TEST_F(GatherShardsTest, GoesOnWithoutShardsThatAreNotThere) {
  control_.ready_at[0] = At(2);
  control_.ready_at[2] = At(5);
  const auto shards = Gather();
  ASSERT_TRUE(shards.ok()) << shards.status();
  EXPECT_EQ((*shards)[1].name, "b:2");
  EXPECT_EQ((*shards)[1].hidden, 0);
  EXPECT_GE(clock_.Now(), At(15)) << "ten seconds after the last good news";
  EXPECT_LT(clock_.Now(), At(16));
}

TEST_F(GatherShardsTest, WaitsForOneThatLoads) {
  control_.ready_at[0] = control_.ready_at[1] = At(0);
  control_.loads_at[2] = At(1);
  control_.ready_at[2] = At(300);
  ASSERT_TRUE(Gather().ok());
  EXPECT_GE(clock_.Now(), At(300));
}

TEST_F(GatherShardsTest, NamesOneThatLoadsStillAtTheDeadline) {
  control_.ready_at[0] = control_.ready_at[1] = At(0);
  control_.loads_at[2] = At(1);
  options_.deadline = At(60);
  const auto shards = Gather();
  EXPECT_EQ(shards.status().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(std::string(shards.status().message()),
              HasSubstr("expert shard 2 at c:3: the shard is not ready: 3 of 8"));
}

TEST_F(GatherShardsTest, DoesNotStartWithoutAnyShard) {
  options_.deadline = At(60);
  EXPECT_EQ(Gather().status().code(), absl::StatusCode::kDeadlineExceeded);
}

TEST_F(GatherShardsTest, RefusesAShardOfAnotherModel) {
  control_.other_model = 1;
  EXPECT_EQ(Gather().status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(GatherShardsTest, WaitsForOthersWhileExpertsAreMissingButNotForEver) {
  for (int i = 0; i < 3; ++i) control_.ready_at[i] = At(1);
  int asked = 0;
  options_.complete = [&](const std::vector<ShardDescription>& shards) {
    EXPECT_EQ(shards.size(), 3u);
    return ++asked > 10;
  };
  ASSERT_TRUE(Gather().ok());
  EXPECT_LT(clock_.Now(), At(5));
  options_.complete = [](const std::vector<ShardDescription>&) { return false; };
  const absl::Time begin = clock_.Now();
  EXPECT_TRUE(Gather().ok());
  EXPECT_GE(clock_.Now() - begin, options_.grace);
}

TEST_F(GatherShardsTest, EndsWhenNobodyWantsTheAnswer) {
  options_.cancelled = [&] { return clock_.Now() > At(3); };
  EXPECT_EQ(Gather().status().code(), absl::StatusCode::kCancelled);
}

}  // namespace
}  // namespace conclave
