// How much each tenant may ask for: requests and tokens a minute, and answers at once.
#ifndef CONCLAVE_GATEWAY_TENANTS_TENANT_LIMITS_H_
#define CONCLAVE_GATEWAY_TENANTS_TENANT_LIMITS_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "gateway/caller.h"
#include "moe/base/clock.h"

namespace conclave {

// Thread-safe. What a tenant has used is kept by its name, so that it outlives a change of the key file; limits are
// those of the Tenant that a request came with, shared evenly among the gateways.
class TenantLimits {
  struct Account;

 public:
  // A request that was let in. Thread-safe; must go before its TenantLimits.
  class Lease {
   public:
    ~Lease();
    Lease(const Lease&) = delete;
    Lease& operator=(const Lease&) = delete;
    // Tokens of the answer, as they come. They may take the account below zero, which later requests wait for.
    void AddTokens(int tokens);

   private:
    friend class TenantLimits;
    Lease(TenantLimits& limits, std::shared_ptr<Account> account, std::shared_ptr<const Tenant> tenant, int answers)
        : limits_(limits), account_(std::move(account)), tenant_(std::move(tenant)), answers_(answers) {}
    TenantLimits& limits_;
    const std::shared_ptr<Account> account_;
    const std::shared_ptr<const Tenant> tenant_;
    const int answers_;
  };

  // clock must outlive it. gateways: those that serve the same tenants, >= 1; this one grants one share of so many.
  explicit TenantLimits(Clock* clock, int gateways = 1) : clock_(clock), gateways_(gateways) {}

  // Lets a request in, or says which limit it met and when that is over: RESOURCE_EXHAUSTED by LimitReached. A request
  // that is refused costs nothing. A prompt longer than a whole minute's tokens needs a full account.
  absl::StatusOr<std::unique_ptr<Lease>> Admit(std::shared_ptr<const Tenant> tenant, int answers,
                                               int64_t prompt_tokens);

 private:
  // What is left of a minute's worth, which comes back evenly.
  struct Bucket {
    double left = 0;
    absl::Time at = absl::InfinitePast();  // when `left` was right; never: full
    // It holds a minute's worth, but at least 1: a small share still lets one through now and then.
    void Refill(double per_minute, absl::Time now);
    // How long until `wanted` is left.
    absl::Duration Wait(double wanted, double per_minute) const;
  };
  struct Account {
    Bucket requests, tokens;
    int running = 0;
  };

  // " (2 at each of 3 gateways)" where the limit is shared: for messages.
  std::string Share(double limit) const;

  Clock* const clock_;
  const int gateways_;
  absl::Mutex mutex_;
  std::map<std::string, std::shared_ptr<Account>> accounts_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace conclave

#endif  // CONCLAVE_GATEWAY_TENANTS_TENANT_LIMITS_H_
