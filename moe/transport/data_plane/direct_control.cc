#include "moe/transport/data_plane/direct_control.h"

#include <utility>

namespace conclave {

void DirectControl::Ask(ShardId shard, const DataPlaneRequest& request) {
  DataPlane* const asked = (*shards_)[Value(shard)];
  answers_[Value(shard)].emplace(asked == nullptr ? absl::UnavailableError("nobody listens") : asked->Connect(request));
}

absl::optional<absl::StatusOr<DataPlaneOffer>> DirectControl::Answer(ShardId shard) {
  return std::exchange(answers_[Value(shard)], absl::nullopt);
}

}  // namespace conclave
