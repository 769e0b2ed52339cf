#include "router_service/shard_health.h"

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace conclave {
namespace {

using ::testing::HasSubstr;

constexpr ShardId kA{0}, kB{1}, kC{2}, kD{3};
const absl::Status kLate = absl::DeadlineExceededError("late");
const absl::Status kDamaged = absl::DataLossError("damaged");

class ShardHealthTest : public testing::Test {
 protected:
  void Answer(ShardId shard, absl::Duration latency = absl::Milliseconds(1)) {
    health_.RecordAnswer(shard, 1, 4, latency, now_);
  }
  const std::unique_ptr<Metrics> metrics_ = Metrics::Create();
  ShardHealth health_{{"a", "b", "c", "d"}, OutlierOptions{}, metrics_.get()};
  absl::Time now_ = absl::UnixEpoch();
};

TEST_F(ShardHealthTest, ALateShardIsAvoidedForAWhile) {
  EXPECT_FALSE(health_.Ejected(kA, now_));
  health_.RecordFailure(kA, kLate, now_);
  EXPECT_TRUE(health_.Ejected(kA, now_));
  EXPECT_TRUE(health_.Figures(now_)[0].avoided);
  EXPECT_FALSE(health_.Figures(now_)[0].healthy());
  now_ += absl::Milliseconds(999);
  EXPECT_TRUE(health_.Ejected(kA, now_));
  now_ += absl::Milliseconds(1);
  EXPECT_FALSE(health_.Ejected(kA, now_));
  EXPECT_TRUE(health_.Figures(now_)[0].healthy()) << "whether anybody has asked it since or not";
}

TEST_F(ShardHealthTest, EachEjectionLastsLongerUntilItIsForgiven) {
  for (int n = 1; n <= 3; ++n) {
    health_.RecordFailure(kA, kLate, now_);
    EXPECT_TRUE(health_.Ejected(kA, now_ + absl::Seconds(n) - absl::Milliseconds(1)));
    EXPECT_FALSE(health_.Ejected(kA, now_ + absl::Seconds(n)));
    now_ += absl::Seconds(n);
  }
  for (int n = 0; n < 40; ++n) {
    health_.RecordFailure(kA, kLate, now_);
    EXPECT_FALSE(health_.Ejected(kA, now_ + absl::Seconds(30)));
    now_ += absl::Seconds(30);
  }
  now_ += absl::Seconds(61);
  health_.RecordFailure(kA, kLate, now_);
  EXPECT_FALSE(health_.Ejected(kA, now_ + absl::Seconds(1)));
}

TEST_F(ShardHealthTest, DamagedRepliesEjectOnlyInARow) {
  for (int i = 0; i < 10; ++i) {
    health_.RecordFailure(kA, kDamaged, now_);
    health_.RecordFailure(kA, kDamaged, now_);
    Answer(kA);
  }
  EXPECT_FALSE(health_.Ejected(kA, now_));
  for (int i = 0; i < 3; ++i) health_.RecordFailure(kA, kDamaged, now_);
  EXPECT_TRUE(health_.Ejected(kA, now_));
}

TEST_F(ShardHealthTest, AShardThatIsOutpacedAgainAndAgainIsAvoided) {
  for (int i = 0; i < 3; ++i) health_.RecordOutpaced(kB, now_);
  EXPECT_TRUE(health_.Ejected(kB, now_));
}

TEST_F(ShardHealthTest, AShardTenTimesSlowerThanTheOthersIsAvoided) {
  for (int i = 0; i < 32; ++i) {
    for (const ShardId shard : {kA, kB, kC, kD}) Answer(shard, absl::Milliseconds(shard == kC ? 10 : 1));
  }
  EXPECT_TRUE(health_.Ejected(kC, now_));
  for (const ShardId shard : {kA, kB, kD}) EXPECT_FALSE(health_.Ejected(shard, now_));
}

TEST_F(ShardHealthTest, FastShardsAreNeverSlowHoweverTheyDiffer) {
  for (int i = 0; i < 32; ++i) {
    for (const ShardId shard : {kA, kB, kC, kD}) Answer(shard, absl::Microseconds(shard == kC ? 900 : 20));
  }
  EXPECT_FALSE(health_.Ejected(kC, now_));
}

TEST_F(ShardHealthTest, NoMoreThanHalfOfTheShardsAreEjected) {
  for (const ShardId shard : {kA, kB, kC, kD}) health_.RecordFailure(shard, kLate, now_);
  EXPECT_TRUE(health_.Ejected(kA, now_) && health_.Ejected(kB, now_));
  EXPECT_FALSE(health_.Ejected(kC, now_) || health_.Ejected(kD, now_));
}

TEST_F(ShardHealthTest, OneOfTwoShardsMayBeEjected) {
  ShardHealth two({"a", "b"}, OutlierOptions{}, nullptr);
  two.RecordFailure(kA, kLate, now_);
  two.RecordFailure(kB, kLate, now_);
  EXPECT_TRUE(two.Ejected(kA, now_));
  EXPECT_FALSE(two.Ejected(kB, now_));
}

TEST_F(ShardHealthTest, AStaleCallAndADeadShardAreNoOutliers) {
  for (int i = 0; i < 10; ++i) {
    health_.RecordFailure(kA, absl::FailedPreconditionError("epoch"), now_);
    health_.RecordFailure(kA, absl::UnavailableError("gone"), now_);
  }
  EXPECT_FALSE(health_.Ejected(kA, now_));
  health_.SetReachable(kA, false);
  EXPECT_FALSE(health_.Figures(now_)[0].reachable);
  EXPECT_FALSE(health_.Figures(now_)[0].avoided);
  EXPECT_THAT(metrics_->Text(), HasSubstr("conclave_router_shard_up{shard=\"a\"} 0"));
  health_.SetReachable(kA, true);
  EXPECT_TRUE(health_.Figures(now_)[0].healthy());
  EXPECT_EQ(health_.Figures(now_)[0].failures, 20u);
}

}  // namespace
}  // namespace conclave
