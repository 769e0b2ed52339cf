#include "cli/core_split.h"

#include <algorithm>

#include "moe/base/check.h"

namespace conclave {
namespace {

// `cores` in `count` parts that differ by one at most, and are at least 1.
std::vector<int> Even(int cores, int count) {
  std::vector<int> parts;
  for (int i = 0; i < count; ++i) parts.push_back(std::max(1, cores / count + (i < cores % count ? 1 : 0)));
  return parts;
}

}  // namespace

CoreSplit ShareCores(int cores, int routers, int shards) {
  CONCLAVE_CHECK(cores >= 1 && routers >= 1 && shards >= 0);
  if (shards == 0) return {Even(cores, routers), {}};
  const int least = std::min(2, cores), most = shards == 1 ? cores : std::max(least, cores / 2);
  const int each = std::clamp(2 * cores / shards, least, most);
  return {Even(cores, routers), std::vector<int>(static_cast<size_t>(shards), each)};
}

CoreSplit SplitCores(int cores, int routers, int shards) {
  CONCLAVE_CHECK(routers >= 1 && shards >= 0 && cores >= routers + shards);
  if (shards == 0) return {Even(cores, routers), {}};
  const int for_shards = std::clamp(cores / 2, shards, cores - routers);
  return {Even(cores - for_shards, routers), Even(for_shards, shards)};
}

std::vector<std::vector<int>> AssignCpus(const CoreSplit& split, absl::Span<const int> cpus) {
  std::vector<std::vector<int>> assigned;
  size_t begin = 0;
  for (const auto* processes : {&split.routers, &split.shards}) {
    for (const int threads : *processes) {
      const size_t end = begin + static_cast<size_t>(threads);
      CONCLAVE_CHECK(end <= cpus.size());
      assigned.emplace_back(cpus.begin() + begin, cpus.begin() + end);
      begin = end;
    }
  }
  return assigned;
}

}  // namespace conclave
