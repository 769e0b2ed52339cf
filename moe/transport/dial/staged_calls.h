// Calls whose rows and results lie on a device, over a transport that takes them in this process's memory alone.
#ifndef CONCLAVE_MOE_TRANSPORT_DIAL_STAGED_CALLS_H_
#define CONCLAVE_MOE_TRANSPORT_DIAL_STAGED_CALLS_H_

#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "moe/kernels/accelerator/device_stream.h"
#include "moe/transport/data_plane/body_buffer.h"
#include "moe/transport/transport.h"

namespace conclave {

// Used by the transport's thread, and outlives it. It waits for copies: a way for the time that no better one is there.
class StagedCalls {
 public:
  explicit StagedCalls(std::shared_ptr<DeviceStream> stream);
  // over.Call of the call in pinned memory; Done runs once the results are on the device. A device that fails ends the
  // call at once, within Call.
  void Call(Transport& over, ShardId shard, const ExpertCall& call, MatView out, ExpertCallDone done);

 private:
  // Of one call.
  struct Memory {
    explicit Memory(const HostMemory& host) : rows(host), out(host) {}
    BodyBuffer rows, out;
  };

  const std::shared_ptr<DeviceStream> stream_;
  const HostMemory host_;
  std::vector<std::shared_ptr<Memory>> free_;
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_TRANSPORT_DIAL_STAGED_CALLS_H_
