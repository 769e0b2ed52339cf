// What a pool knows of its attention services: who can be used, and how busy each is. Internal to the pool.
#ifndef CONCLAVE_GATEWAY_ROUTERS_ROUTER_SET_H_
#define CONCLAVE_GATEWAY_ROUTERS_ROUTER_SET_H_

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "conclave/v1/control.pb.h"

namespace conclave {

// What all usable services said last, together.
struct RouterLoad {
  int64_t queued = 0, running = 0;  // sequences
  uint64_t kv_blocks_used = 0, kv_blocks = 0;  // used: without those that only the prefix cache keeps
};

// Thread-safe. Services are named by their index, a place that one holds from Add to Retire.
class RouterSet {
 public:
  // With room for `places` services.
  explicit RouterSet(int places);

  int size() const { return static_cast<int>(routers_.size()); }  // places, empty ones included
  // Gives the service a place; -1: there is none.
  int Add(const std::string& address);
  // Empties the place of a service that is down and has none of our sequences. False: it is not, or has some.
  bool Retire(int router);
  std::string address(int router) const;  // empty: nobody is there
  std::vector<std::string> addresses() const;

  // The service said how it is, `latency` after it was asked, when `running` sequences of ours were there.
  void Report(int router, const v1::GetStatusResponse& status, absl::Duration latency, int running);
  // A question about its status has come to an end: with a Report, or without an answer.
  void Asked(int router, absl::Time end);
  // Whether such a question has ended at or after `since` at every service that cannot be used.
  bool AskedSince(absl::Time since) const;
  // It cannot be used until it reports again. `why` stands in logs and refusals.
  void SetDown(int router, const absl::Status& why);
  // A sequence is to go there. False: the service has been retired meanwhile, and another one is to be tried.
  bool Enter(int router);
  // A sequence has ended there.
  void Leave(int router);

  // Usable services in the order in which to try them, without those of `excluded`; `place` first where it is one.
  std::vector<int> Order(uint64_t key, int place, const std::set<int>& excluded) const;
  bool usable(int router) const;
  bool any_usable() const;
  // What the usable services are: all serve one model and compute in one way, the first one's.
  std::optional<v1::GetStatusResponse> identity() const;
  // Why none can be used: each with its address.
  std::string Complaint() const;
  // How long its answers about its status take, on average.
  absl::Duration latency(int router) const;
  int load(int router) const;
  // Whether every usable service has as many sequences as it takes, running and waiting; the sum of these. Nothing
  // where one has room, or says nothing of its limit, or none is usable.
  std::optional<int> Full() const;
  // What all usable ones take together, running and queued; 0: one does not say, or there is none.
  int load_max() const;
  int running(int router) const;  // of ours alone
  RouterLoad total_load() const;
  // Blocks until a service is usable, or false at the deadline.
  bool AwaitUsable(absl::Time deadline) const;

 private:
  struct Router {
    std::string address;  // empty: an empty place
    bool up = false;
    absl::Status why = absl::UnavailableError("has not answered yet");
    int running = 0;         // sequences of this gateway's
    v1::GetStatusResponse status;  // its last one
    int load_of_others = 0;  // sequences there when it last reported, less ours at that time
    int load_max = 0;        // sequences that it takes; 0: it does not say
    absl::Duration latency = absl::ZeroDuration();
    absl::Time asked = absl::InfinitePast();  // when the last question about its status ended
  };
  bool AnyUsable() const ABSL_SHARED_LOCKS_REQUIRED(mutex_);
  void SetDownLocked(int router, const absl::Status& why) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  mutable absl::Mutex mutex_;
  std::vector<Router> routers_;  // what is in them is guarded by mutex_; their number never changes
  std::optional<v1::GetStatusResponse> identity_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace conclave

#endif  // CONCLAVE_GATEWAY_ROUTERS_ROUTER_SET_H_
