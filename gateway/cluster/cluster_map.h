// The state of the whole cluster as JSON, for /experts and the console: attention services, shards, who holds which
// expert, and tokens by layer and expert since start.
#ifndef CONCLAVE_GATEWAY_CLUSTER_CLUSTER_MAP_H_
#define CONCLAVE_GATEWAY_CLUSTER_CLUSTER_MAP_H_

#include <memory>
#include <string>

#include "absl/time/time.h"
#include "gateway/cluster/cluster_snapshot.h"

namespace conclave {

// What does not change while a gateway runs.
struct ClusterMapOptions {
  std::string model;          // what clients call it
  int experts_per_token = 1;  // the gate's top-k
  absl::Duration refresh_interval = absl::Milliseconds(500);
  absl::Duration idle_after = absl::Seconds(10);  // nobody looked for so long: the services are left alone
};

// Thread-safe. However many look, each attention service is asked once an interval, by a thread of the map's own.
class ClusterMap {
 public:
  static std::unique_ptr<ClusterMap> Create(const ClusterMapOptions& options, std::unique_ptr<ClusterProbe> probe);
  virtual ~ClusterMap() = default;  // waits for a question that is under way
  // The latest state; never blocks. Before the first answer, a cluster without services.
  virtual std::shared_ptr<const std::string> Json() = 0;
};

// One JSON object.
std::string ClusterMapJson(const ClusterMapOptions& options, const ClusterSnapshot& snapshot);

}  // namespace conclave

#endif  // CONCLAVE_GATEWAY_CLUSTER_CLUSTER_MAP_H_
