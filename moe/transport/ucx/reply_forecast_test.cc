#include "moe/transport/ucx/reply_forecast.h"

#include "gtest/gtest.h"

namespace conclave {
namespace {

TEST(ReplyForecast, ExpectsRepliesAtOnceAsLongAsItKnowsNothing) {
  EXPECT_EQ(ReplyForecast().AtLeast(100), absl::ZeroDuration());
}

TEST(ReplyForecast, LearnsHowLongAPairTakes) {
  ReplyForecast forecast;
  for (int i = 0; i < 100; ++i) forecast.Took(3, absl::Milliseconds(1.2));
  EXPECT_GT(forecast.AtLeast(6), absl::Milliseconds(2.3));
  EXPECT_LE(forecast.AtLeast(6), absl::Milliseconds(2.4));
}

TEST(ReplyForecast, BelievesTheQuickAtOnceAndTheSlowWithTime) {
  ReplyForecast forecast;
  for (int i = 0; i < 100; ++i) forecast.Took(1, absl::Milliseconds(1));
  forecast.Took(1, absl::Microseconds(10));
  EXPECT_EQ(forecast.AtLeast(1), absl::Microseconds(10));
  forecast.Took(1, absl::Milliseconds(1));
  EXPECT_LT(forecast.AtLeast(1), absl::Microseconds(100)) << "one slow call may be chance";
}

}  // namespace
}  // namespace conclave
