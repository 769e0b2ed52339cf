#include "gateway/tenants/tenant_limits.h"

#include <algorithm>
#include <utility>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "gateway/refusal.h"

namespace conclave {
namespace {

// When an answer of the tenant's own ends is not known.
constexpr absl::Duration kRunningRetry = absl::Seconds(1);

}  // namespace

void TenantLimits::Bucket::Refill(double per_minute, absl::Time now) {
  const double most = std::max(per_minute, 1.0);
  if (at == absl::InfinitePast()) {
    left = most;
  } else {
    left = std::min(most, left + per_minute * absl::FDivDuration(now - at, absl::Minutes(1)));
  }
  at = now;
}

absl::Duration TenantLimits::Bucket::Wait(double wanted, double per_minute) const {
  return absl::Minutes(1) * ((wanted - left) / per_minute);
}

std::string TenantLimits::Share(double limit) const {
  return gateways_ == 1 ? "" : absl::StrCat(" (", limit / gateways_, " at each of ", gateways_, " gateways)");
}

absl::StatusOr<std::unique_ptr<TenantLimits::Lease>> TenantLimits::Admit(std::shared_ptr<const Tenant> tenant,
                                                                         int answers, int64_t prompt_tokens) {
  const double requests_max = static_cast<double>(tenant->requests_per_minute_max) / gateways_;
  const double tokens_max = static_cast<double>(tenant->tokens_per_minute_max) / gateways_;
  absl::MutexLock lock(&mutex_);
  std::shared_ptr<Account>& account = accounts_[tenant->name];
  if (account == nullptr) account = std::make_shared<Account>();
  const absl::Time now = clock_->Now();
  if (requests_max > 0) {
    account->requests.Refill(requests_max, now);
    if (account->requests.left < 1) {
      return LimitReached(
          kLimitRequestsPerMinute,
          absl::StrCat("tenant ", tenant->name, " may make ", tenant->requests_per_minute_max, " requests a minute",
                       Share(tenant->requests_per_minute_max)),
          account->requests.Wait(1, requests_max));
    }
  }
  if (tokens_max > 0) {
    account->tokens.Refill(tokens_max, now);
    const double wanted = std::min(tokens_max, static_cast<double>(prompt_tokens));
    if (account->tokens.left < wanted) {
      return LimitReached(kLimitTokensPerMinute,
                          absl::StrCat("tenant ", tenant->name, " may use ", tenant->tokens_per_minute_max,
                                       " tokens a minute", Share(tenant->tokens_per_minute_max),
                                       ", and this prompt has ", prompt_tokens),
                          account->tokens.Wait(wanted, tokens_max));
    }
  }
  // More answers than ever fit are refused only while others run: n is bounded elsewhere.
  const int running_max = tenant->requests_running_max == 0 ? 0 : std::max(1, tenant->requests_running_max / gateways_);
  if (running_max > 0 && account->running > 0 && account->running + answers > running_max) {
    return LimitReached(kLimitRequestsRunning,
                        absl::StrCat("tenant ", tenant->name, " may have ", running_max, " answers at once",
                                     gateways_ == 1 ? "" : " here", ", and has ", account->running),
                        kRunningRetry);
  }
  if (requests_max > 0) account->requests.left -= 1;
  if (tokens_max > 0) account->tokens.left -= static_cast<double>(prompt_tokens);
  account->running += answers;
  return absl::WrapUnique(new Lease(*this, account, std::move(tenant), answers));
}

TenantLimits::Lease::~Lease() {
  absl::MutexLock lock(&limits_.mutex_);
  account_->running -= answers_;
}

void TenantLimits::Lease::AddTokens(int tokens) {
  if (tenant_->tokens_per_minute_max == 0) return;
  absl::MutexLock lock(&limits_.mutex_);
  account_->tokens.left -= tokens;
}

}  // namespace conclave
