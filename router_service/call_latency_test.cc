#include "router_service/call_latency.h"

#include "gtest/gtest.h"

namespace conclave {
namespace {

constexpr ShardId kA{0}, kB{1}, kC{2};

TEST(CallLatency, KnowsNothingAtFirst) {
  CallLatency latency(2);
  EXPECT_FALSE(latency.HighMark(kA, 4).has_value());
  EXPECT_EQ(latency.Slowness(kA, 4, absl::ZeroDuration()), 1);
}

TEST(CallLatency, SettlesCloselyAboveWhatCallsTake) {
  CallLatency latency(2);
  for (int i = 0; i < 200; ++i) latency.Record(kA, 4, absl::Microseconds(100 + i % 3));
  EXPECT_GT(*latency.HighMark(kA, 4), absl::Microseconds(101));
  EXPECT_LT(*latency.HighMark(kA, 4), absl::Microseconds(110));
  for (int i = 0; i < 200; ++i) latency.Record(kA, 4, absl::Milliseconds(2));
  EXPECT_GT(*latency.HighMark(kA, 4), absl::Microseconds(1900)) << "it follows";
}

TEST(CallLatency, JudgesOtherSizesByThoseItKnows) {
  CallLatency latency(1);
  for (int i = 0; i < 100; ++i) latency.Record(kA, 4, absl::Milliseconds(1));
  EXPECT_GE(*latency.HighMark(kA, 64), absl::Milliseconds(16)) << "sixteen times the pairs";
  EXPECT_LE(*latency.HighMark(kA, 1), absl::Microseconds(1100)) << "no less than the larger";
}

TEST(CallLatency, JudgesAStrangerByTheSlowestOfTheOthers) {
  CallLatency latency(3);
  for (int i = 0; i < 100; ++i) latency.Record(kA, 4, absl::Milliseconds(1));
  for (int i = 0; i < 100; ++i) latency.Record(kB, 4, absl::Milliseconds(3));
  EXPECT_GE(*latency.HighMark(kC, 4), absl::Milliseconds(3));
}

TEST(CallLatency, ComparesWithTheMedianOfTheOthers) {
  CallLatency latency(3);
  for (int i = 0; i < 20; ++i) {
    latency.Record(kA, 4, absl::Milliseconds(1));
    latency.Record(kB, 4, absl::Milliseconds(10));
    latency.Record(kC, 4, absl::Milliseconds(1));
  }
  EXPECT_NEAR(latency.Slowness(kB, 4, absl::ZeroDuration()), 10, 0.5);
  EXPECT_NEAR(latency.Slowness(kA, 4, absl::ZeroDuration()), 1, 0.05);
  EXPECT_EQ(latency.Slowness(kB, 4, absl::Milliseconds(11)), 1);
  latency.Record(kA, 4, absl::Milliseconds(50));
  EXPECT_LT(latency.Slowness(kA, 4, absl::ZeroDuration()), 1.4) << "a hiccup";
  latency.Forget(kB);
  EXPECT_EQ(latency.Slowness(kB, 4, absl::ZeroDuration()), 1);
}

}  // namespace
}  // namespace conclave
