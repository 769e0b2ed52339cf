// An ExpertPool over shards that come and go: when the list of shards changes, a new set of connections is made beside
// the one in use, and takes its place between two layers; a layer that waits for shards which are all gone begins again
// on it. Requests notice nothing.
#ifndef CONCLAVE_ROUTER_SERVICE_ELASTIC_EXPERTS_H_
#define CONCLAVE_ROUTER_SERVICE_ELASTIC_EXPERTS_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "moe/checkpoint/model_spec.h"
#include "moe/daemon/peer_list.h"
#include "moe/metrics/metrics.h"
#include "moe/model/expert_pool.h"
#include "moe/tensor/dtype.h"
#include "moe/transport/shard_control.h"
#include "moe/transport/transport.h"
#include "router_service/remote_experts.h"

namespace conclave {

// Connections to one list of shards, and the pool over them. They go in reverse order: connections before the memory of
// the pool's rows, which a shard may fetch as long as its connection stands, and whose freeing waits for all of the
// device's queues, also for one that waits for a peer until its connection goes.
struct ShardSet {
  std::vector<std::string> addresses;  // [shards]
  std::unique_ptr<ShardControl> control;
  std::unique_ptr<RemoteExperts> experts;
  std::unique_ptr<Transport> transport;  // of experts
};

// ExpertPool's calls are for one thread, the engine's; the others are for any.
class ElasticExperts : public ExpertPool {
 public:
  // Connects to the shards at `addresses`; may take long, but ends soon where `cancelled` turns true. CANCELLED then.
  using Connect = std::function<absl::StatusOr<std::unique_ptr<ShardSet>>(const std::vector<std::string>& addresses,
                                                                          std::function<bool()> cancelled)>;
  // Blocks until shards are connected. Where `peers` may change, a thread follows it from then on; an empty list is
  // not followed, since nobody could compute. `peers` and `metrics` must outlive the pool.
  // DEADLINE_EXCEEDED: no shard was listed in time. Else what `connect` says.
  static absl::StatusOr<std::unique_ptr<ElasticExperts>> Create(const PeerList& peers, Connect connect,
                                                                absl::Time deadline, Metrics* metrics);

  // Sets that hold memory at a time: where `peers` may change, the next one is connected beside the one in use.
  static int SetsMax(const PeerList& peers) { return peers.changes() ? 2 : 1; }
  // What they take of a device's memory where rows lie there, all of them together and whatever `peers` may come to
  // name: a row goes to no more shards than it has experts. A set that finds too little is not used; it is tried again.
  static int64_t DeviceBytes(const ModelSpec& spec, DType row_dtype, int rows_max, const PeerList& peers) {
    const int shards = peers.changes() ? spec.gate.top_k : static_cast<int>(peers.Addresses().size());
    return SetsMax(peers) * RemoteExperts::DeviceBytes(spec, row_dtype, rows_max, shards);
  }

  // The set in use; it stays good for as long as it is held, and must be let go soon.
  virtual std::shared_ptr<const ShardSet> current() const = 0;
};

}  // namespace conclave

#endif  // CONCLAVE_ROUTER_SERVICE_ELASTIC_EXPERTS_H_
