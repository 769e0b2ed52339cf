#include "gateway/refusal.h"

#include "gtest/gtest.h"

namespace conclave {
namespace {

TEST(Refusal, CarriesTheLimitAndATimeRoundedUp) {
  const absl::Status status = LimitReached(kLimitQueue, "the queue is full", absl::Microseconds(1200));
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(status.message(), "the queue is full");
  EXPECT_EQ(LimitOf(status), "queue");
  EXPECT_EQ(RetryAfterOf(status), absl::Milliseconds(2));
  EXPECT_EQ(RetryAfterOf(WithRetryAfter(status, absl::ZeroDuration())), absl::Milliseconds(1));
  EXPECT_EQ(RetryAfterOf(WithRetryAfter(status, absl::Seconds(3))), absl::Seconds(3));
}

TEST(Refusal, OtherStatusesCarryNothing) {
  EXPECT_EQ(RetryAfterOf(absl::OkStatus()), std::nullopt);
  EXPECT_EQ(LimitOf(absl::ResourceExhaustedError("full")), std::nullopt);
}

TEST(Refusal, NamesTheFieldThatAMessageBeginsWith) {
  EXPECT_EQ(FieldOf(absl::InvalidArgumentError("sampling.top_p: is 2")), "sampling.top_p");
  EXPECT_EQ(FieldOf(absl::InvalidArgumentError("chat.messages[3].role: must be")), "chat.messages[3].role");
  EXPECT_EQ(FieldOf(absl::InvalidArgumentError("the request is damaged: its bytes")), "");
  EXPECT_EQ(FieldOf(absl::InvalidArgumentError("no colon")), "");
  EXPECT_EQ(FieldOf(absl::InvalidArgumentError(": x")), "");
}

}  // namespace
}  // namespace conclave
