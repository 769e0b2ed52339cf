// One sequence at a pool of attention services: which of them decodes it, and who goes on when that one fails.
// Internal to the pool.
#ifndef CONCLAVE_GATEWAY_ROUTERS_POOLED_STREAM_H_
#define CONCLAVE_GATEWAY_ROUTERS_POOLED_STREAM_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "conclave/v1/control.pb.h"
#include "gateway/router_client.h"
#include "gateway/routers/router_pool.h"
#include "gateway/routers/router_set.h"
#include "moe/daemon/open_calls.h"
#include "moe/metrics/metrics.h"
#include "moe/tracing/tracer.h"

namespace conclave {

// What all streams of a pool share.
struct PoolParts {
  const RouterPoolOptions& options;
  RouterSet& set;
  const std::vector<std::unique_ptr<RouterClient>>& clients;  // [places]; good between Enter and Leave
  OpenCalls& streams;                                         // counts PooledStream objects
  const std::atomic<bool>& stopping;                          // nobody waits any more
  std::function<void()> ask_now;                              // all services are asked how they are, soon
  Counter* resumed;
  Counter* retried;
};

// Thread-safe. Begin is called once; from then on its listener hears exactly one stream, whatever happens behind it.
class PooledStream final : public DecodeCall, public std::enable_shared_from_this<PooledStream> {
 public:
  PooledStream(const PoolParts& parts, int place, v1::DecodeRequest request, absl::Time deadline,
               const TraceContext& trace, std::shared_ptr<DecodeListener> listener);
  ~PooledStream() override { parts_.streams.Leave(); }

  void Begin();
  void Cancel() override;
  // To be called now and then: tries again what waits, and takes elsewhere what has come to a standstill.
  void Tick(absl::Time now);
  // `router` hangs: where this stream is there and another service can take it, that one does.
  void Leave(int router);
  bool done() const;

 private:
  class Attempt;

  // One attempt's events; those of attempts that were given up come to nothing.
  void OnResponse(int attempt, const v1::DecodeResponse& response);
  void OnEnd(int attempt, const absl::Status& status);

  // What to do after an attempt ended with `status`: try elsewhere, wait, or end.
  void Continue(const absl::Status& status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Sends the rest of the sequence to a service that has not refused it; false where there is none.
  bool TryNext() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // REQUIRES: the set has let it enter
  void Send(int router) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Goes on without the attempt under way.
  void GiveUpAttempt(const absl::Status& why) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The span of one attempt; the context is not valid where nothing is traced.
  TraceContext BeginSpan(int router) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void EndSpan(const absl::Status& status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Wait(const absl::Status& why) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Whether whoever waits has waited for long enough.
  bool Waited(absl::Time now) const ABSL_SHARED_LOCKS_REQUIRED(mutex_);
  void End(const absl::Status& status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Whether the client has been let in: it has got a part of this answer, or another one to the same prompt came first.
  bool begun() const ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return heard_ || request_.choice() > 0; }
  bool cancelled() const;

  const PoolParts& parts_;
  const int place_;
  const uint64_t key_;
  const absl::Time deadline_;
  const TraceContext trace_;
  const absl::Time came_ = absl::Now();

  // Held while the listener is called: its calls never overlap, whoever they come from.
  mutable absl::Mutex mutex_;
  std::shared_ptr<DecodeListener> listener_ ABSL_GUARDED_BY(mutex_);  // null: done
  v1::DecodeRequest request_ ABSL_GUARDED_BY(mutex_);                 // with all ids that have come
  std::string profile_ ABSL_GUARDED_BY(mutex_);                       // the numbers that it began with
  bool heard_ ABSL_GUARDED_BY(mutex_) = false;                        // the listener has got something
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;                     // with a finish reason
  int attempt_ ABSL_GUARDED_BY(mutex_) = 0;
  std::optional<Span> span_ ABSL_GUARDED_BY(mutex_);  // of the attempt under way, where it is traced
  int router_ ABSL_GUARDED_BY(mutex_) = -1;           // of the attempt under way; -1: none
  std::set<int> refused_by_ ABSL_GUARDED_BY(mutex_);  // since something last came
  int losses_ ABSL_GUARDED_BY(mutex_) = 0;            // services lost since something last came
  absl::Time last_news_ ABSL_GUARDED_BY(mutex_) = came_;
  absl::Duration token_time_ ABSL_GUARDED_BY(mutex_) = absl::ZeroDuration();  // mean between messages
  absl::Status waiting_for_ ABSL_GUARDED_BY(mutex_);                          // OK: not waiting
  absl::Time wait_until_ ABSL_GUARDED_BY(mutex_);

  // Apart, because a listener may cancel from within a call.
  mutable absl::Mutex call_mutex_;
  std::shared_ptr<DecodeCall> call_ ABSL_GUARDED_BY(call_mutex_);
  bool cancelled_ ABSL_GUARDED_BY(call_mutex_) = false;
};

}  // namespace conclave

#endif  // CONCLAVE_GATEWAY_ROUTERS_POOLED_STREAM_H_
