#include "gateway/tenants/tenant_metrics.h"

#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "gateway/refusal.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace conclave {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

TEST(TenantMetrics, WhatEachTenantDoesIsCountedApart) {
  const auto metrics = Metrics::Create();
  TenantMetrics tenants(*metrics);
  TenantSeries& research = tenants.Of("research");
  research.Entered(4, 100);
  research.Generated(7);
  research.Ended(absl::OkStatus());
  research.Left(1);
  tenants.Of("guests").Ended(LimitReached(kLimitTokensPerMinute, "enough", absl::Seconds(1)));
  EXPECT_EQ(&tenants.Of("research"), &research);
  const std::string text = metrics->Text();
  EXPECT_THAT(text, HasSubstr("conclave_gateway_tenant_requests_total{code=\"OK\",tenant=\"research\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("conclave_gateway_tenant_prompt_tokens_total{tenant=\"research\"} 100\n"));
  EXPECT_THAT(text, HasSubstr("conclave_gateway_tenant_generated_tokens_total{tenant=\"research\"} 7\n"));
  EXPECT_THAT(text, HasSubstr("conclave_gateway_tenant_answers_running{tenant=\"research\"} 3\n"));
  EXPECT_THAT(text,
              HasSubstr("conclave_gateway_tenant_requests_total{code=\"RESOURCE_EXHAUSTED\",tenant=\"guests\"} 1\n"));
  EXPECT_THAT(text,
              HasSubstr("conclave_gateway_tenant_refused_total{limit=\"tokens_per_minute\",tenant=\"guests\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("conclave_gateway_tenant_refused_total{limit=\"queue\",tenant=\"guests\"} 0\n"));
}

TEST(TenantMetrics, TenantsWithoutEndShareOneNameInTheEnd) {
  const auto metrics = Metrics::Create();
  TenantMetrics tenants(*metrics);
  for (size_t i = 0; i < TenantMetrics::kTenantsMax + 10; ++i) tenants.Of(absl::StrCat("tenant-", i)).Generated(1);
  const std::string text = metrics->Text();
  EXPECT_THAT(text, HasSubstr("conclave_gateway_tenant_generated_tokens_total{tenant=\"other\"} 10\n"));
  EXPECT_THAT(text, Not(HasSubstr(absl::StrCat("tenant-", TenantMetrics::kTenantsMax))));
}

}  // namespace
}  // namespace conclave
