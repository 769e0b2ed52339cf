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

// All cores for the attention services, and all of them for the shards too: a layer's attention waits for its experts
// and they for it, and who waits sleeps. Several shards together get up to twice the cores, none of them more than
// half, so that one to which many of a layer's experts fell can use the cores of those that have done; one shard gets
// all cores once. Nobody has more threads than there are cores, and shards have two at least where there are two cores.
// REQUIRES: cores >= 1, routers >= 1, shards >= 0
CoreSplit ShareCores(int cores, int routers, int shards);

// Cores for one process each, as pinned threads need them: half for the attention services and half for the shards,
// evenly within each half, and at least one for each process. The sum is `cores`. Without shards the attention services
// have them all. REQUIRES: routers >= 1, shards >= 0, cores >= routers + shards
CoreSplit SplitCores(int cores, int routers, int shards);

// The CPUs of each process of a split, the attention services first, cut from `cpus` in their order. REQUIRES: the sum
// of the split is no larger than their number.
std::vector<std::vector<int>> AssignCpus(const CoreSplit& split, absl::Span<const int> cpus);

}  // namespace conclave

#endif  // CONCLAVE_CLI_CORE_SPLIT_H_
