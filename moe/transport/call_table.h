// The caller's side of calls in flight, shared by all transports: who waits for what until when, and which Done is
// due. It is what makes "Done runs exactly once, in Progress, and `out` is never touched afterwards" true.
#ifndef CONCLAVE_MOE_TRANSPORT_CALL_TABLE_H_
#define CONCLAVE_MOE_TRANSPORT_CALL_TABLE_H_

#include <cstdint>
#include <deque>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "moe/base/ids.h"
#include "moe/tensor/mat_view.h"
#include "moe/transport/transport.h"
#include "moe/transport/validate_call.h"

namespace conclave {

// Used by one thread, the transport's caller. Searches are linear: a router has a few calls in flight.
class CallTable {
 public:
  // Of a transport with such a rows_device().
  explicit CallTable(Device rows_device = Device::kCpu) { limits_.device_rows = rows_device == Device::kCuda; }
  struct Pending {
    uint64_t call_id = 0;
    ShardId shard{0};
    MatView out;
    absl::Time deadline;
    ExpertCallDone done;
  };

  // Takes the call in, or makes its Done due with INVALID_ARGUMENT: a shard outside [0, shards), an `out` that does
  // not fit, a call that ValidateExpertCall refuses, an id that is in flight already. True: send it.
  bool Add(ShardId shard, int shards, const ExpertCall& call, MatView out, ExpertCallDone done);
  // The call in flight, or null: it has ended (its reply is late or a duplicate), or never was. The pointer is good
  // until the next change of the table.
  const Pending* Find(uint64_t call_id) const;
  // The call is over: its Done becomes due. Ignored where the call is not in flight.
  void End(uint64_t call_id, absl::Status status);
  // The call is over but its memory is still in use: neither shard nor deadline concern it any more; End must follow.
  void Detach(uint64_t call_id);
  // All calls of one shard are over. Returns how many.
  int EndShard(ShardId shard, const absl::Status& status);
  struct Expired {
    uint64_t call_id;
    ShardId shard;
  };
  // Ends calls whose deadline has come with DEADLINE_EXCEEDED; what it returns is good until the next call of it.
  absl::Span<const Expired> EndExpired(absl::Time now);
  // The earliest deadline in flight; InfiniteFuture where there is none.
  absl::Time EarliestDeadline() const;
  // Runs the Done of calls that are over, those that end meanwhile included. Returns how many ran.
  int RunDone();

  int in_flight() const { return static_cast<int>(pending_.size()); }

 private:
  struct Due {
    ExpertCallDone done;
    absl::Status status;
  };
  void EndAt(size_t index, absl::Status status);

  CallLimits limits_;
  std::vector<Pending> pending_;  // in no order
  std::deque<Due> due_;
  std::vector<Expired> expired_;
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_TRANSPORT_CALL_TABLE_H_
