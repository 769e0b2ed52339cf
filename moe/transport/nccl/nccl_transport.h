// The transport of GPUs: rows travel by NCCL from device to device, headers of calls over a TCP connection beside it.
// Connections are made and admitted over the control channel (moe/transport/data_plane.h), which also carries the id of
// the communicator. Every shard has a communicator of its own with the router, so that one that dies takes no other
// along; a communicator that does not get on within a deadline is aborted, and made anew.
//
// There is no thread of its own: the caller's thread goes on in Progress. Rows and results on the device are copied
// there, those in pinned memory (DeviceStream::Pinned) from and to it straight, others through pinned memory of the
// transport. Of several calls to one shard one is under way at a time, in order. A call that ends before its reply has
// come lets go of `out` at once; while the reply is being copied into it, which takes no longer than a copy, the call
// cannot be taken back.
#ifndef CONCLAVE_MOE_TRANSPORT_NCCL_NCCL_TRANSPORT_H_
#define CONCLAVE_MOE_TRANSPORT_NCCL_NCCL_TRANSPORT_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "moe/kernels/accelerator/device_stream.h"
#include "moe/transport/data_plane.h"
#include "moe/transport/nccl/nccl_api.h"
#include "moe/transport/transport.h"

namespace conclave {

// Queues on the device whose memory the rows pass through; called by the thread that uses the transport.
using StreamFactory = std::function<absl::StatusOr<std::unique_ptr<DeviceStream>>()>;

// What a router expects of its shards, and its patience with them.
struct NcclTransportOptions {
  const NcclApi* api = nullptr;  // required
  StreamFactory new_stream;      // required
  std::string gpu;               // the device's own name, AcceleratorInfo::uuid
  std::string name = "router";   // stands in the shards' logs
  uint64_t instance = 0;         // DataPlaneRequest::instance; 0: a random one
  // What shards must serve; a shard refuses the connection where it differs. Empty or 0: not checked.
  std::string model_fingerprint;
  std::string numeric_profile;  // leave empty to allow mixed numerics
  uint64_t placement_epoch = 0;
  // A connection that broke is made again after this long, twice as long after each failure in a row.
  absl::Duration backoff_min = absl::Milliseconds(20);
  absl::Duration backoff_max = absl::Seconds(1);
  absl::Duration connect_timeout = absl::Seconds(15);  // of one attempt; the first in a process loads kernels
  absl::Duration move_timeout = absl::Seconds(2);      // of rows that both ends have put on their way
};

// The router's end: a pair of ranks with each shard.
class NcclTransport : public Transport {
 public:
  // Whether the shard takes calls right now.
  virtual bool Connected(ShardId shard) const = 0;
  // Why it does not: what the last attempt or the connection's end said.
  virtual absl::Status WhyNot(ShardId shard) const = 0;
};

// For shards [0, shards). Connections are made by the first Progress or Call, and again after they broke; calls that
// come while one is being made wait for it. While a shard is away, its calls end at once with UNAVAILABLE and the
// reason. Done of calls that are in flight when the transport is destroyed is dropped.
std::unique_ptr<NcclTransport> NewNcclTransport(int shards, std::unique_ptr<DataPlaneClient> control,
                                                const NcclTransportOptions& options);

}  // namespace conclave

#endif  // CONCLAVE_MOE_TRANSPORT_NCCL_NCCL_TRANSPORT_H_
