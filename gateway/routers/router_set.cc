#include "gateway/routers/router_set.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "gateway/routers/balance.h"
#include "moe/base/log.h"

namespace conclave {
namespace {

// The share of a new answer in the mean of latencies.
constexpr double kLatencyShare = 0.2;

// Why a service may not take part beside `first`; OK where it may.
absl::Status CheckAlike(const v1::GetStatusResponse& first, const v1::GetStatusResponse& other) {
  if (first.model_fingerprint() != other.model_fingerprint()) {
    return absl::FailedPreconditionError(
        absl::StrCat("serves another model (", other.model_id(), ", ", other.model_fingerprint(), ")"));
  }
  if (first.numeric_profile() != other.numeric_profile()) {
    return absl::FailedPreconditionError(
        absl::StrCat("computes in another way: ", other.numeric_profile(), " beside ", first.numeric_profile()));
  }
  return absl::OkStatus();
}

}  // namespace

RouterSet::RouterSet(int places) : routers_(static_cast<size_t>(places)) {}

int RouterSet::Add(const std::string& address) {
  absl::MutexLock lock(&mutex_);
  const auto empty =
      std::find_if(routers_.begin(), routers_.end(), [](const Router& router) { return router.address.empty(); });
  if (empty == routers_.end()) return -1;
  empty->address = address;
  return static_cast<int>(empty - routers_.begin());
}

bool RouterSet::Retire(int index) {
  absl::MutexLock lock(&mutex_);
  Router& router = routers_[static_cast<size_t>(index)];
  if (router.up || router.running > 0) return false;
  router = Router();
  return true;
}

std::string RouterSet::address(int router) const {
  absl::MutexLock lock(&mutex_);
  return routers_[static_cast<size_t>(router)].address;
}

std::vector<std::string> RouterSet::addresses() const {
  absl::MutexLock lock(&mutex_);
  std::vector<std::string> addresses;
  for (const Router& router : routers_) {
    if (!router.address.empty()) addresses.push_back(router.address);
  }
  return addresses;
}

bool RouterSet::Enter(int index) {
  absl::MutexLock lock(&mutex_);
  Router& router = routers_[static_cast<size_t>(index)];
  if (router.address.empty()) return false;
  ++router.running;
  return true;
}

void RouterSet::Leave(int index) {
  absl::MutexLock lock(&mutex_);
  --routers_[static_cast<size_t>(index)].running;
}

void RouterSet::Report(int index, const v1::GetStatusResponse& status, absl::Duration latency, int running) {
  absl::MutexLock lock(&mutex_);
  Router& router = routers_[static_cast<size_t>(index)];
  // Where all have gone, the first that comes back says what is served: they may all have been updated.
  if (!identity_.has_value() || (!AnyUsable() && identity_->model_fingerprint() == status.model_fingerprint())) {
    if (identity_.has_value() && identity_->numeric_profile() != status.numeric_profile()) {
      LogWarning(absl::StrCat("attention services compute as ", status.numeric_profile(), " from now on, not as ",
                              identity_->numeric_profile()));
    }
    identity_ = status;
  }
  router.latency =
      router.latency == absl::ZeroDuration() ? latency : (1 - kLatencyShare) * router.latency + kLatencyShare * latency;
  const int load = static_cast<int>(status.requests_queued() + status.requests_running());
  router.status = status;
  // What ended or began meanwhile is ours all the same.
  router.load_of_others = std::max(0, load - std::max(running, router.running));
  router.load_max = static_cast<int>(status.requests_queued_max() + status.requests_running_max());
  if (const absl::Status alike = CheckAlike(*identity_, status); !alike.ok()) return SetDownLocked(index, alike);
  if (status.draining()) return SetDownLocked(index, absl::UnavailableError("is stopping"));
  if (!router.up) LogInfo(absl::StrCat("attention service ", router.address, " is in use"));
  router.up = true;
  router.why = absl::OkStatus();
}

void RouterSet::Asked(int router, absl::Time end) {
  absl::MutexLock lock(&mutex_);
  routers_[static_cast<size_t>(router)].asked = end;
}

bool RouterSet::AskedSince(absl::Time since) const {
  absl::MutexLock lock(&mutex_);
  return std::all_of(routers_.begin(), routers_.end(), [since](const Router& router) {
    return router.address.empty() || router.up || router.asked >= since;
  });
}

void RouterSet::SetDown(int router, const absl::Status& why) {
  absl::MutexLock lock(&mutex_);
  SetDownLocked(router, why);
}

void RouterSet::SetDownLocked(int index, const absl::Status& why) {
  Router& router = routers_[static_cast<size_t>(index)];
  if (router.up || (absl::IsFailedPrecondition(why) && router.why != why)) {
    LogWarning(absl::StrCat("attention service ", router.address, " is not used: ", why.message()));
  }
  router.up = false;
  router.why = why;
}

std::vector<int> RouterSet::Order(uint64_t key, int place, const std::set<int>& excluded) const {
  std::vector<Candidate> candidates;
  {
    absl::MutexLock lock(&mutex_);
    for (int i = 0; i < size(); ++i) {
      const Router& router = routers_[static_cast<size_t>(i)];
      candidates.push_back(
          {router.address, router.up && excluded.count(i) == 0, router.running + router.load_of_others});
    }
  }
  std::vector<int> order = Rank(key, candidates);
  const auto found = std::find(order.begin(), order.end(), place);
  if (found != order.end()) std::rotate(order.begin(), found, found + 1);
  return order;
}

bool RouterSet::usable(int router) const {
  absl::MutexLock lock(&mutex_);
  return routers_[static_cast<size_t>(router)].up;
}

bool RouterSet::AnyUsable() const {
  return std::any_of(routers_.begin(), routers_.end(), [](const Router& router) { return router.up; });
}

bool RouterSet::any_usable() const {
  absl::MutexLock lock(&mutex_);
  return AnyUsable();
}

std::optional<v1::GetStatusResponse> RouterSet::identity() const {
  absl::MutexLock lock(&mutex_);
  return identity_;
}

std::string RouterSet::Complaint() const {
  absl::MutexLock lock(&mutex_);
  std::vector<std::string> parts;
  for (int i = 0; i < size(); ++i) {
    const Router& router = routers_[static_cast<size_t>(i)];
    if (router.address.empty() || router.up) continue;
    const absl::string_view why = router.why.message();
    parts.push_back(absl::StrContains(why, router.address) ? std::string(why) : absl::StrCat(router.address, " ", why));
  }
  if (parts.empty()) parts.push_back("none is listed");
  return absl::StrCat("no attention service can be used: ", absl::StrJoin(parts, "; "));
}

absl::Duration RouterSet::latency(int router) const {
  absl::MutexLock lock(&mutex_);
  return routers_[static_cast<size_t>(router)].latency;
}

int RouterSet::load(int router) const {
  absl::MutexLock lock(&mutex_);
  return routers_[static_cast<size_t>(router)].running + routers_[static_cast<size_t>(router)].load_of_others;
}

std::optional<int> RouterSet::Full() const {
  absl::MutexLock lock(&mutex_);
  int sum = 0;
  for (const Router& router : routers_) {
    if (!router.up) continue;
    const int load = router.running + router.load_of_others;
    if (router.load_max == 0 || load < router.load_max) return std::nullopt;
    sum += load;
  }
  if (sum == 0) return std::nullopt;
  return sum;
}

int RouterSet::load_max() const {
  absl::MutexLock lock(&mutex_);
  int sum = 0;
  for (const Router& router : routers_) {
    if (!router.up) continue;
    if (router.load_max == 0) return 0;
    sum += router.load_max;
  }
  return sum;
}

int RouterSet::running(int router) const {
  absl::MutexLock lock(&mutex_);
  return routers_[static_cast<size_t>(router)].running;
}

RouterLoad RouterSet::total_load() const {
  absl::MutexLock lock(&mutex_);
  RouterLoad total;
  for (const Router& router : routers_) {
    if (!router.up) continue;
    total.queued += router.status.requests_queued();
    total.running += router.status.requests_running();
    total.kv_blocks_used += router.status.kv_blocks_used() - router.status.kv_blocks_cached();
    total.kv_blocks += router.status.kv_blocks_total();
  }
  return total;
}

bool RouterSet::AwaitUsable(absl::Time deadline) const {
  absl::MutexLock lock(&mutex_);
  return mutex_.AwaitWithDeadline(absl::Condition(this, &RouterSet::AnyUsable), deadline);
}

}  // namespace conclave
