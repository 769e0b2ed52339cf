// A transport without a wire: shards are objects of this process, each with one thread that runs its calls in order.
//
// A thread per shard rather than running the handler inside Call: shards work at the same time, two tickets overlap,
// and a handler that hangs costs a deadline rather than the engine. Rows are copied on the way in and out, so that a
// handler that comes too late touches neither memory of the caller.
#ifndef CONCLAVE_MOE_TRANSPORT_INPROC_INPROC_TRANSPORT_H_
#define CONCLAVE_MOE_TRANSPORT_INPROC_INPROC_TRANSPORT_H_

#include <condition_variable>
#include <memory>
#include <mutex>
#include <vector>

#include "absl/time/time.h"
#include "moe/base/clock.h"
#include "moe/base/ids.h"
#include "moe/tensor/mat_view.h"
#include "moe/transport/call_table.h"
#include "moe/transport/expert_handler.h"
#include "moe/transport/transport.h"

namespace conclave {

// Call, Progress, Disconnect and Connect belong to one thread. The destructor waits for running handlers; Done of
// calls that are still in flight is then dropped.
class InprocTransport final : public Transport {
 public:
  // shards[i] answers for ShardId{i}; null: gone from the start. Handlers and clock must outlive the transport.
  // `clock` decides about deadlines alone; Progress waits in real time.
  explicit InprocTransport(std::vector<ExpertHandler*> shards, Clock* clock = Clock::Real());
  ~InprocTransport() override;

  void Call(ShardId shard, const ExpertCall& call, MatView out, ExpertCallDone done) override;
  void Cancel(uint64_t call_id) override;
  int Progress(absl::Duration wait) override;
  int shards() const override { return static_cast<int>(workers_.size()); }

  // The shard is gone: its calls end with UNAVAILABLE. Waits for the handler, which may be destroyed afterwards.
  void Disconnect(ShardId shard);
  // The shard is back, or is replaced by another handler.
  void Connect(ShardId shard, ExpertHandler* handler);

 private:
  struct Job;
  class Worker;

  std::unique_ptr<Job> TakeJob();
  void Deliver(Job& job);
  void CollectFinished();

  Clock* const clock_;
  CallTable table_;
  std::vector<std::unique_ptr<Job>> free_;     // kept for their buffers
  std::vector<std::unique_ptr<Job>> arrived_;  // swapped with finished_
  std::mutex mutex_;
  std::condition_variable finished_cv_;
  std::vector<std::unique_ptr<Job>> finished_;    // guarded by mutex_
  std::vector<std::unique_ptr<Worker>> workers_;  // null handler inside: gone
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_TRANSPORT_INPROC_INPROC_TRANSPORT_H_
