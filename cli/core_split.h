// How the cores of one machine are shared out among the processes of a cluster.
#ifndef CONCLAVE_CLI_CORE_SPLIT_H_
#define CONCLAVE_CLI_CORE_SPLIT_H_

#include <vector>

#include "absl/types/span.h"

namespace conclave {

// The threads with which each process computes.
struct CoreSplit {
  std::vector<int> routers;  // of each attention service
  std::vector<int> shards;   // of each expert process
};

// Half of the cores for the attention services and half for the shards, evenly within each half, and at least one for
// each process: the sum is `cores`. With fewer cores than processes that cannot be. Then the attention services share
// out all cores, and the shards share them out twice, with two threads each at least, for both wait a lot: the attention
// services for the shards, and a shard that got few of a layer's experts for another, whose second thread can use the
// core meanwhile. No process has more threads than there are cores, or none.
// REQUIRES: cores >= 1, routers >= 1, shards >= 0
CoreSplit SplitCores(int cores, int routers, int shards);

// The CPUs of each process of a split, the attention services first, cut from `cpus` in their order. REQUIRES: the sum
// of the split is no larger than their number.
std::vector<std::vector<int>> AssignCpus(const CoreSplit& split, absl::Span<const int> cpus);

}  // namespace conclave

#endif  // CONCLAVE_CLI_CORE_SPLIT_H_
