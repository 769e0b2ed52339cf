// The shard's side of a call, whatever carried it: transports decode a message into an ExpertCall and hand it here.
#ifndef CONCLAVE_MOE_TRANSPORT_EXPERT_HANDLER_H_
#define CONCLAVE_MOE_TRANSPORT_EXPERT_HANDLER_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "moe/placement/placement.h"
#include "moe/transport/transport.h"

namespace conclave {

// What a shard says of itself before the first call.
struct ShardDescription {
  std::string name;
  std::string model_fingerprint;  // Checkpoint::fingerprint
  std::string numeric_profile;    // see moe/model/numeric_profile.h; a router refuses a pool of mixed profiles
  uint64_t placement_epoch = 0;
  int hidden = 0;
  DType row_dtype = DType::kF32;
  using Holding = LayerHolding;
  std::vector<Holding> holdings;  // ascending by layer
  uint64_t expert_bytes = 0;      // stored bytes of all held experts
  uint64_t expert_bytes_max = 0;  // how many it takes at most; 0: no limit
};

// Thread-safe: transports may call from several threads.
class ExpertHandler {
 public:
  virtual ~ExpertHandler() = default;
  virtual ShardDescription Describe() const = 0;
  // Run also takes rows that lie on the device, complete, 256-byte aligned and without gaps.
  virtual bool TakesDeviceRows() const { return false; }
  // Validates every length and index, then computes out [pairs, hidden] of the rows' dtype.
  // INVALID_ARGUMENT names the field that is out of range; FAILED_PRECONDITION an expert that is not held here.
  // Rows and out are in this process's memory, or both in its device's where TakesDeviceRows says so.
  virtual absl::Status Run(const ExpertCall& call, MatView out) = 0;
  // Holds `experts` too from now on; describes the shard as it is then. INVALID_ARGUMENT names a layer or expert that
  // the model does not have; RESOURCE_EXHAUSTED: no room, and nothing has changed.
  virtual absl::StatusOr<ShardDescription> LoadExperts(absl::Span<const LayerHolding> experts) {
    return absl::UnimplementedError("this shard cannot load further experts");
  }
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_TRANSPORT_EXPERT_HANDLER_H_
