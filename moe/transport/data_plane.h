// How a router gets a connection for activations from a shard: it asks over the control channel, which knows whom it
// talks to, and is handed an address and a token that only it can use, once.
#ifndef CONCLAVE_MOE_TRANSPORT_DATA_PLANE_H_
#define CONCLAVE_MOE_TRANSPORT_DATA_PLANE_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/optional.h"
#include "moe/base/ids.h"

namespace conclave {

// What a router says of itself and expects.
struct DataPlaneRequest {
  std::string peer;                           // who asks: stands in the shard's log
  uint32_t version_min = 0, version_max = 0;  // of the wire format
  // What the shard must serve; empty or 0: not checked.
  std::string model_fingerprint;
  std::string numeric_profile;
  uint64_t placement_epoch = 0;
  // Of those who ask for NCCL: the version they have, and their GPU's own name. 0: NCCL is not meant.
  int nccl_version = 0;
  std::string gpu;
  bool device_rows = false;  // asks for rows over UCX from device to device
  uint64_t instance = 0;  // a number that no other process has, for as long as it lives; 0: not said
};

// What a shard hands out. Good for one connection, made soon.
struct DataPlaneOffer {
  uint32_t version = 0;
  uint64_t connection = 0;
  std::string token;    // kTokenBytes, secret
  std::string address;  // numeric host:port of the shard's listener
  std::string nccl_id;  // of NCCL: the ncclUniqueId of the communicator to be; else empty
  bool device_rows = false;        // rows and results travel over UCX from device to device
  std::string why_no_device_rows;  // where the router asked for that
};
inline constexpr int kTokenBytes = 32;

// The shard's side. Thread-safe.
class DataPlane {
 public:
  virtual ~DataPlane() = default;
  // FAILED_PRECONDITION: another model, numeric profile, epoch or wire version, in a sentence. PERMISSION_DENIED: the
  // peer is in quarantine. UNAVAILABLE: not ready, or draining. RESOURCE_EXHAUSTED: too many connections.
  virtual absl::StatusOr<DataPlaneOffer> Connect(const DataPlaneRequest& request) = 0;
};

// The router's side, for several shards. Used by one thread; never blocks.
class DataPlaneClient {
 public:
  virtual ~DataPlaneClient() = default;
  // Asks `shard`. An answer that is outstanding is given up.
  virtual void Ask(ShardId shard, const DataPlaneRequest& request) = 0;
  // The answer, once; none: not yet. Whatever DataPlane::Connect says, and UNAVAILABLE or DEADLINE_EXCEEDED where the
  // shard is not reached, UNIMPLEMENTED where it offers no data plane.
  virtual absl::optional<absl::StatusOr<DataPlaneOffer>> Answer(ShardId shard) = 0;
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_TRANSPORT_DATA_PLANE_H_
