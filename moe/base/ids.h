// Strong ids: numbers that must not be mixed up get types that cannot be.
#ifndef CONCLAVE_MOE_BASE_IDS_H_
#define CONCLAVE_MOE_BASE_IDS_H_

#include <cstdint>

namespace conclave {

// A decoder layer by the model's own number, dense layers counted: model.layers.<n>.
enum class LayerId : int32_t {};
// A routed expert by the model's own number within its layer.
enum class ExpertId : int32_t {};
// An expert shard by its index in the cluster's list of shards, from zero.
enum class ShardId : int32_t {};
// One sequence in one engine; never reused while the process lives.
enum class SequenceId : uint64_t {};

// The plain number behind an id, for indexing and printing.
template <typename Id>
constexpr auto Value(Id id) {
  if constexpr (sizeof(Id) == 8) {
    return static_cast<uint64_t>(id);
  } else {
    return static_cast<int32_t>(id);
  }
}

}  // namespace conclave

#endif  // CONCLAVE_MOE_BASE_IDS_H_
