// A control channel for tests: asks shards of this process by function call.
#ifndef CONCLAVE_MOE_TRANSPORT_DATA_PLANE_DIRECT_CONTROL_H_
#define CONCLAVE_MOE_TRANSPORT_DATA_PLANE_DIRECT_CONTROL_H_

#include <cstdint>
#include <limits>
#include <memory>
#include <vector>

#include "absl/types/optional.h"
#include "moe/transport/data_plane.h"

namespace conclave {

// Shards that may come and go; null: away. Shared by the test and the transport's client, and used by one thread.
using DirectShards = std::shared_ptr<std::vector<DataPlane*>>;

class DirectControl final : public DataPlaneClient {
 public:
  // It speaks for a router that knows versions of the wire format up to version_max.
  explicit DirectControl(DirectShards shards, uint32_t version_max = std::numeric_limits<uint32_t>::max())
      : shards_(std::move(shards)), version_max_(version_max), answers_(shards_->size()) {}
  void Ask(ShardId shard, const DataPlaneRequest& request) override;
  absl::optional<absl::StatusOr<DataPlaneOffer>> Answer(ShardId shard) override;

 private:
  const DirectShards shards_;
  const uint32_t version_max_;
  std::vector<absl::optional<absl::StatusOr<DataPlaneOffer>>> answers_;
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_TRANSPORT_DATA_PLANE_DIRECT_CONTROL_H_
