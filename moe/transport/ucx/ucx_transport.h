// The fast transport: active messages by UCX, over shared memory between processes of one machine, over RDMA or TCP
// between machines. Connections are made and admitted over the control channel (moe/transport/data_plane.h).
//
// There is no thread of its own: the caller's thread progresses UCX in Progress. Rows go out from where they lie; a
// reply is written to `out` as its fragments arrive, by the callbacks of Progress and only as long as its call is in
// flight, so that a late or repeated one finds no call and is dropped. A Done waits for UCX to have let go of the
// call's rows: where a call ends before that (a deadline while the shard takes nothing in), the connection is given
// up, which makes UCX let go.
#ifndef CONCLAVE_MOE_TRANSPORT_UCX_UCX_TRANSPORT_H_
#define CONCLAVE_MOE_TRANSPORT_UCX_UCX_TRANSPORT_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "moe/kernels/accelerator/device_stream.h"
#include "moe/transport/data_plane.h"
#include "moe/transport/transport.h"
#include "moe/transport/ucx/ucx_worker.h"

namespace conclave {

// What a router expects of its shards, and its patience with them.
struct UcxTransportOptions {
  std::string name = "router";  // stands in the shards' logs
  // What shards must serve; a shard refuses the connection where it differs. Empty or 0: not checked.
  std::string model_fingerprint;
  std::string numeric_profile;  // leave empty to allow mixed numerics
  uint64_t placement_epoch = 0;
  bool checksum = false;  // of every message, both ways
  // A connection that broke is made again after this long, twice as long after each failure in a row.
  absl::Duration backoff_min = absl::Milliseconds(20);
  absl::Duration backoff_max = absl::Seconds(1);
  absl::Duration connect_timeout = absl::Seconds(5);  // of one attempt, from asking to being welcome
  // Queues on the device whose memory rows and results may lie in, where UCX was built for it: they then travel from
  // device to device to and from shards that can do so too, and through pinned memory to others. Null: there is none.
  // Called once.
  std::function<absl::StatusOr<std::unique_ptr<DeviceStream>>()> new_stream;
  UcxWorkerOptions worker;
};

// A Transport that also tells how its shards stand.
class UcxTransport : public Transport {
 public:
  // Whether the shard takes calls right now.
  virtual bool Connected(ShardId shard) const = 0;
  // Why it does not: what the last attempt or the connection's end said.
  virtual absl::Status WhyNot(ShardId shard) const = 0;
  // The status of the last attempt as the shard gave it: UNIMPLEMENTED where it has no UCX.
  virtual absl::Status LastRefusal(ShardId shard) const = 0;
  // What carries the rows, such as "shared memory" or "tcp", and with a device how they leave it: "shared memory,
  // device memory", or "…, staged through pinned memory, since …"; empty where not connected.
  virtual std::string Wires(ShardId shard) const = 0;
};

// For shards [0, shards). Connections are made by the first Progress or Call, and again after they broke; calls that
// come while one is being made wait for it. While a shard is away, its calls end at once with UNAVAILABLE and the
// reason. Done of calls that are in flight when the transport is destroyed is dropped. INTERNAL: UCX does not work
// here, and what it said.
absl::StatusOr<std::unique_ptr<UcxTransport>> NewUcxTransport(int shards, std::unique_ptr<DataPlaneClient> control,
                                                              const UcxTransportOptions& options);

}  // namespace conclave

#endif  // CONCLAVE_MOE_TRANSPORT_UCX_UCX_TRANSPORT_H_
