// How one ticket's pairs are spread over the shards that hold their experts.
#ifndef CONCLAVE_ROUTER_SERVICE_HOLDER_LOADS_H_
#define CONCLAVE_ROUTER_SERVICE_HOLDER_LOADS_H_

#include <algorithm>
#include <cstdint>
#include <vector>

#include "moe/base/ids.h"

namespace conclave {

// A shard reads the weights of an expert once for all rows that it gets for it. So a pair costs more where it brings an
// expert that the shard has not been given yet, and the rows of an expert stay together, unless there are so many of
// them that another holder has done the rest long before. Sized at creation. Used by one thread.
class HolderLoads {
 public:
  HolderLoads(int shards, int experts) : loads_(static_cast<size_t>(shards)), given_(static_cast<size_t>(experts)) {}

  void Clear() {
    std::fill(loads_.begin(), loads_.end(), 0);
    std::fill(given_.begin(), given_.end(), 0);
  }
  // What the shard has to do if it gets one more pair of the expert. `place`: its place among the expert's holders.
  int64_t With(ShardId shard, int32_t expert, int place) const {
    const bool given = (given_[static_cast<size_t>(expert)] >> std::min(place, kPlaces - 1) & 1) != 0;
    return loads_[static_cast<size_t>(Value(shard))] + 1 + (given ? 0 : kWeightsInPairs);
  }
  void Give(ShardId shard, int32_t expert, int place) {
    loads_[static_cast<size_t>(Value(shard))] = With(shard, expert, place);
    given_[static_cast<size_t>(expert)] |= uint64_t{1} << std::min(place, kPlaces - 1);
  }

 private:
  // Reading an expert's weights, in pairs that could be computed meanwhile: on a CPU, where few rows are.
  static constexpr int64_t kWeightsInPairs = 16;
  static constexpr int kPlaces = 64;  // holders beyond share the last one: a guess that costs no answer

  std::vector<int64_t> loads_;   // [shards]
  std::vector<uint64_t> given_;  // [experts] a bit for each place of a holder that has pairs of it
};

}  // namespace conclave

#endif  // CONCLAVE_ROUTER_SERVICE_HOLDER_LOADS_H_
