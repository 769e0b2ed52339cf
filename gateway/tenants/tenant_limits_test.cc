#include "gateway/tenants/tenant_limits.h"

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gateway/refusal.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace conclave {
namespace {

using ::testing::HasSubstr;

class TenantLimitsTest : public ::testing::Test {
 protected:
  using Admission = absl::StatusOr<std::unique_ptr<TenantLimits::Lease>>;

  static std::shared_ptr<const Tenant> Named(const std::string& name, int requests, int tokens, int running) {
    return std::make_shared<const Tenant>(Tenant{name, requests, tokens, running, 0, {}, ""});
  }
  static std::string LimitIn(const Admission& admission) {
    return admission.ok() ? "none" : LimitOf(admission.status()).value_or("unnamed");
  }

  FakeClock clock_;
  TenantLimits limits_{&clock_};
};

TEST_F(TenantLimitsTest, WithoutLimitsEverythingIsLetIn) {
  const auto tenant = Named("a", 0, 0, 0);
  std::vector<Admission> all;
  for (int i = 0; i < 1000; ++i) all.push_back(limits_.Admit(tenant, 10, 1'000'000));
  for (const Admission& admission : all) EXPECT_TRUE(admission.ok());
}

TEST_F(TenantLimitsTest, RequestsComeBackEvenlyOverTheMinute) {
  const auto tenant = Named("a", 60, 0, 0);
  for (int i = 0; i < 60; ++i) ASSERT_TRUE(limits_.Admit(tenant, 1, 5).ok()) << i;
  const Admission refused = limits_.Admit(tenant, 1, 5);
  EXPECT_EQ(LimitIn(refused), kLimitRequestsPerMinute);
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(refused.status().message()), HasSubstr("tenant a may make 60 requests a minute"));
  EXPECT_EQ(RetryAfterOf(refused.status()), absl::Seconds(1));
  clock_.Advance(absl::Seconds(1));
  EXPECT_TRUE(limits_.Admit(tenant, 1, 5).ok());
  EXPECT_FALSE(limits_.Admit(tenant, 1, 5).ok());
  clock_.Advance(absl::Hours(1));
  for (int i = 0; i < 60; ++i) ASSERT_TRUE(limits_.Admit(tenant, 1, 5).ok()) << "a minute's worth, not an hour's";
  EXPECT_FALSE(limits_.Admit(tenant, 1, 5).ok());
  EXPECT_TRUE(limits_.Admit(Named("b", 60, 0, 0), 1, 5).ok()) << "others have accounts of their own";
}

TEST_F(TenantLimitsTest, TokensOfPromptsAndAnswersCount) {
  const auto tenant = Named("a", 0, 600, 0);
  Admission first = limits_.Admit(tenant, 1, 400);
  ASSERT_TRUE(first.ok());
  const Admission refused = limits_.Admit(tenant, 1, 300);
  EXPECT_EQ(LimitIn(refused), kLimitTokensPerMinute);
  EXPECT_EQ(RetryAfterOf(refused.status()), absl::Seconds(10)) << "100 tokens at 10 a second";
  (*first)->AddTokens(400);  // 200 below zero
  clock_.Advance(absl::Seconds(19));
  EXPECT_FALSE(limits_.Admit(tenant, 1, 1).ok());
  clock_.Advance(absl::Seconds(2));
  EXPECT_TRUE(limits_.Admit(tenant, 1, 1).ok());
}

TEST_F(TenantLimitsTest, APromptOfMoreThanAMinutesTokensWaitsForAFullAccount) {
  const auto tenant = Named("a", 0, 600, 0);
  EXPECT_TRUE(limits_.Admit(tenant, 1, 1000).ok());
  clock_.Advance(absl::Seconds(60));
  EXPECT_FALSE(limits_.Admit(tenant, 1, 1000).ok());
  clock_.Advance(absl::Seconds(40));
  EXPECT_TRUE(limits_.Admit(tenant, 1, 1000).ok());
}

TEST_F(TenantLimitsTest, AnswersAtOnceAreCountedUntilTheLeaseEnds) {
  const auto tenant = Named("a", 0, 0, 3);
  Admission two = limits_.Admit(tenant, 2, 1);
  ASSERT_TRUE(two.ok());
  const Admission refused = limits_.Admit(tenant, 2, 1);
  EXPECT_EQ(LimitIn(refused), kLimitRequestsRunning);
  EXPECT_TRUE(RetryAfterOf(refused.status()).has_value());
  Admission one = limits_.Admit(tenant, 1, 1);
  EXPECT_TRUE(one.ok());
  EXPECT_FALSE(limits_.Admit(tenant, 1, 1).ok());
  two->reset();
  EXPECT_TRUE(limits_.Admit(tenant, 2, 1).ok());
  one->reset();
  EXPECT_TRUE(limits_.Admit(tenant, 9, 1).ok()) << "alone, whatever its n";
}

TEST_F(TenantLimitsTest, SeveralGatewaysShareALimit) {
  TenantLimits share(&clock_, 4);
  const auto tenant = Named("a", 40, 0, 8);
  std::vector<Admission> kept;
  for (int i = 0; i < 2; ++i) kept.push_back(share.Admit(tenant, 1, 1));
  const Admission third = share.Admit(tenant, 1, 1);
  EXPECT_EQ(LimitIn(third), kLimitRequestsRunning);
  EXPECT_THAT(std::string(third.status().message()), HasSubstr("may have 2 answers at once here"));
  kept.clear();
  for (int i = 0; i < 8; ++i) ASSERT_TRUE(share.Admit(tenant, 1, 1).ok()) << i;
  const Admission refused = share.Admit(tenant, 1, 1);
  EXPECT_EQ(LimitIn(refused), kLimitRequestsPerMinute);
  EXPECT_THAT(std::string(refused.status().message()), HasSubstr("40 requests a minute (10 at each of 4 gateways)"));
  EXPECT_EQ(RetryAfterOf(refused.status()), absl::Seconds(6));

  const auto tokens = Named("b", 0, 400, 0);
  EXPECT_TRUE(share.Admit(tokens, 1, 100).ok());
  const Admission more = share.Admit(tokens, 1, 50);
  EXPECT_EQ(LimitIn(more), kLimitTokensPerMinute);
  EXPECT_EQ(RetryAfterOf(more.status()), absl::Seconds(30));
}

TEST_F(TenantLimitsTest, AShareBelowOneStillLetsOneThrough) {
  TenantLimits share(&clock_, 10);
  const auto tenant = Named("a", 2, 0, 3);
  const Admission first = share.Admit(tenant, 1, 1);
  EXPECT_TRUE(first.ok());
  EXPECT_FALSE(share.Admit(tenant, 1, 1).ok());
  clock_.Advance(absl::Minutes(5));
  EXPECT_EQ(LimitIn(share.Admit(tenant, 1, 1)), kLimitRequestsRunning) << "3 / 10, but at least 1, runs already";
}

TEST_F(TenantLimitsTest, ARefusedRequestCostsNothing) {
  const auto tenant = Named("a", 2, 100, 1);
  Admission first = limits_.Admit(tenant, 1, 10);
  ASSERT_TRUE(first.ok());
  for (int i = 0; i < 10; ++i) EXPECT_EQ(LimitIn(limits_.Admit(tenant, 1, 10)), kLimitRequestsRunning);
  first->reset();
  EXPECT_TRUE(limits_.Admit(tenant, 1, 90).ok());
  EXPECT_EQ(LimitIn(limits_.Admit(tenant, 1, 1)), kLimitRequestsPerMinute);
}

TEST_F(TenantLimitsTest, AChangedLimitHoldsAtOnceForWhatWasUsedBefore) {
  ASSERT_TRUE(limits_.Admit(Named("a", 60, 0, 0), 1, 1).ok());
  EXPECT_TRUE(limits_.Admit(Named("a", 1, 0, 0), 1, 1).ok());
  EXPECT_FALSE(limits_.Admit(Named("a", 1, 0, 0), 1, 1).ok());
}

}  // namespace
}  // namespace conclave
