// Where other threads leave requests and cancellations for the engine's thread, and learn how it stands.
#ifndef CONCLAVE_ROUTER_SERVICE_ENGINE_INBOX_H_
#define CONCLAVE_ROUTER_SERVICE_ENGINE_INBOX_H_

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "moe/base/ids.h"
#include "router_service/engine.h"
#include "router_service/live_sequence.h"

namespace conclave {

// A new sequence, or the cancellation of one.
struct InboxItem {
  SequenceId sequence{0};
  std::unique_ptr<LiveSequence> submission;  // null: cancel
};

// Bounded: at most live_max sequences live at a time, each with at most one submission and one cancellation in here.
class EngineInbox {
 public:
  // REQUIRES: live_max >= 1
  explicit EngineInbox(int live_max) : live_max_(live_max) {}

  // Thread-safe; as the functions of Engine.
  absl::StatusOr<SequenceId> Submit(std::unique_ptr<LiveSequence> sequence);
  void Cancel(SequenceId sequence);
  absl::Status Drain(absl::Time deadline);
  EngineStats stats() const;
  // Refuses new sequences, and makes Take return false from now on.
  void Stop();

  // The engine's thread only.
  // Moves what has come into `taken`, which must be empty; sleeps for `wait` at most until there is something or Stop.
  bool Take(absl::Duration wait, std::vector<InboxItem>& taken);
  // Whether something has come that ends sequences: a cancellation, or Stop.
  bool HasCancellation() const;
  // Publishes how the engine stands and frees the places of `ended`; their last events follow, then EndDelivery. So
  // whoever sees a sequence's last event sees its blocks and its place free, and Drain waits for the last event.
  void BeginDelivery(const EngineStats& stats, absl::Span<const SequenceId> ended);
  void EndDelivery();

 private:
  const int live_max_;
  mutable std::mutex mutex_;
  std::condition_variable wake_;  // items_ has something, or stop_
  std::condition_variable idle_;  // nobody lives and all events are delivered
  // All below are guarded by mutex_.
  bool stop_ = false;
  bool draining_ = false;
  bool delivering_ = false;
  uint64_t last_id_ = 0;
  std::vector<InboxItem> items_;
  absl::flat_hash_map<SequenceId, bool> live_;  // true: its cancellation has been left here
  EngineStats stats_;                           // as of the last step; `queued` counts what is in here too
};

}  // namespace conclave

#endif  // CONCLAVE_ROUTER_SERVICE_ENGINE_INBOX_H_
