// The shard's side of a call, whatever carried it: transports decode a message into an ExpertCall and hand it here.
#ifndef CONCLAVE_MOE_TRANSPORT_EXPERT_HANDLER_H_
#define CONCLAVE_MOE_TRANSPORT_EXPERT_HANDLER_H_

#include <cstdint>
#include <functional>
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
  uint64_t revision = 0;          // changes with Keep and Unload; 0: the shard knows neither
  int experts_per_layer = 0;      // routed experts of the model; 0: it does not say
  int replicas = 1;               // on how many shards each expert is to live
};

// What was run of one layer, an expert's rows counted once each.
struct LayerTokens {
  LayerId layer{0};
  std::vector<uint64_t> tokens;  // [experts], also of experts that are held no more
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
  // The same for rows in this process's memory, of results that come there bit by bit: landed(n), on this thread and
  // before the end, says that out's first n bytes are as they stay, for whoever sends them on meanwhile. The end alone
  // says so of all of them; where it is an error, nothing of them is good.
  virtual absl::Status RunInPieces(const ExpertCall& call, MatView out, const std::function<void(int64_t)>& landed) {
    return Run(call, out);
  }
  // Holds `experts` too from now on; describes the shard as it is then. INVALID_ARGUMENT names a layer or expert that
  // the model does not have; RESOURCE_EXHAUSTED: no room, and nothing has changed.
  virtual absl::StatusOr<ShardDescription> LoadExperts(absl::Span<const LayerHolding> experts) {
    return absl::UnimplementedError("this shard cannot load further experts");
  }
  // Brings the weights of `experts` into memory without holding them; calls go on meanwhile. Errors name the tensor.
  virtual absl::Status PrepareExperts(absl::Span<const LayerHolding> experts) { return absl::OkStatus(); }
  // Says that `experts` are held and relied on, and changes the revision. FAILED_PRECONDITION: one is not held.
  // ABORTED: `revision` is not the description's: somebody else changes things too.
  virtual absl::StatusOr<ShardDescription> KeepExperts(absl::Span<const LayerHolding> experts, uint64_t revision) {
    return absl::UnimplementedError("this shard cannot unload experts");
  }
  // Holds `experts` no more, and changes the revision. Errors as KeepExperts, and ABORTED: one is still being loaded.
  virtual absl::StatusOr<ShardDescription> UnloadExperts(absl::Span<const LayerHolding> experts, uint64_t revision) {
    return absl::UnimplementedError("this shard cannot unload experts");
  }
  // Since the start; ascending by layer. Empty: it does not count.
  virtual std::vector<LayerTokens> Tokens() const { return {}; }
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_TRANSPORT_EXPERT_HANDLER_H_
