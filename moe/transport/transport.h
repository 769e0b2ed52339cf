// How activations reach expert shards. Transports know bytes, rows and shards, and nothing of gates.
#ifndef CONCLAVE_MOE_TRANSPORT_TRANSPORT_H_
#define CONCLAVE_MOE_TRANSPORT_TRANSPORT_H_

#include <cstdint>
#include <functional>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "moe/base/ids.h"
#include "moe/kernels/accelerator/device_event.h"
#include "moe/tensor/mat_view.h"
#include "moe/tensor/row_format.h"

namespace conclave {

// Rows of one layer for one shard: one message each way. Row i goes to experts[row_offsets[i] .. row_offsets[i + 1]).
// Non-owning; everything must stay valid until the call is done.
struct ExpertCall {
  uint64_t call_id = 0;          // unique per caller; echoed in the reply
  uint64_t placement_epoch = 0;
  LayerId layer{0};
  ConstMatView rows;                       // [rows, hidden] of F32 or BF16, where rows_device() allows on the device
  const DeviceEvent* ready = nullptr;      // what makes rows on the device complete; null: they are
  bool rows_stay = false;  // rows on the device keep their memory, whatever is written there, once the call is done
  RowFormat format = RowFormat::kCompute;  // kFp8: RoundToFp8 made the rows, and a transport may pack them
  absl::Span<const uint32_t> row_offsets;  // [rows + 1], ascending, row_offsets[0] == 0
  absl::Span<const int32_t> experts;       // [pairs], ascending within a row
  absl::Time deadline = absl::InfiniteFuture();
  int64_t pairs() const { return static_cast<int64_t>(experts.size()); }
};

// Runs exactly once per Call, on the thread that calls Progress.
// OK: out is filled. UNAVAILABLE: the shard is gone. DEADLINE_EXCEEDED. CANCELLED. FAILED_PRECONDITION: the shard does
// not hold an expert, or is at another epoch. INVALID_ARGUMENT: the shard refused the message. DATA_LOSS: the reply was
// damaged.
using ExpertCallDone = std::function<void(const absl::Status&)>;

// Used by one thread, the caller's. A call whose Done has run never touches `out` again, however late its reply, nor
// reads rows on the device, whose memory may go then, unless rows_stay says that it does not.
class Transport {
 public:
  virtual ~Transport() = default;
  // Sends `call` to `shard`; the reply fills out [pairs, hidden] of the rows' dtype, in the order of call.experts.
  virtual void Call(ShardId shard, const ExpertCall& call, MatView out, ExpertCallDone done) = 0;
  // Nobody waits for the call any more: its Done comes due with CANCELLED, if it has not ended yet. A transport that
  // cannot let go of `out` early does nothing, and the call ends as it would have.
  virtual void Cancel(uint64_t call_id) {}
  // Runs the Done of calls that have ended, waiting up to `wait` for the first. Returns how many ran.
  virtual int Progress(absl::Duration wait) = 0;
  virtual int shards() const = 0;
  // Where rows of calls and `out` lie best, both of them. kCuda: without gaps in the memory of the accelerator whose
  // streams the transport has; what is done on the host after Done sees `out` filled. Rows and `out` in this process's
  // memory every transport takes too.
  virtual Device rows_device() const { return Device::kCpu; }
  // Whether the caller's thread may free memory of that device now, which waits for all of the device's queues. False
  // while one of them may wait for a shard that nobody but this thread, in Progress, gives up.
  virtual bool MayFreeDeviceMemory() const { return true; }
  // How calls to the shard travel at the moment: "inproc", "grpc", "ucx" or "nccl"; a literal.
  virtual const char* Way(ShardId) const { return "inproc"; }
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_TRANSPORT_TRANSPORT_H_
