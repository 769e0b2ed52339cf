#include "moe/transport/data_plane/direct_control.h"

#include <algorithm>
#include <utility>

namespace conclave {

void DirectControl::Ask(ShardId shard, const DataPlaneRequest& request) {
  DataPlane* const asked = (*shards_)[Value(shard)];
  DataPlaneRequest known = request;
  known.version_max = std::min(request.version_max, version_max_);
  answers_[Value(shard)].emplace(asked == nullptr ? absl::UnavailableError("nobody listens") : asked->Connect(known));
}

absl::optional<absl::StatusOr<DataPlaneOffer>> DirectControl::Answer(ShardId shard) {
  return std::exchange(answers_[Value(shard)], absl::nullopt);
}

}  // namespace conclave
