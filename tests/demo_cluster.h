// For tests: the demo model, and its experts on any number of shards behind a transport, all in this process.
#ifndef CONCLAVE_TESTS_DEMO_CLUSTER_H_
#define CONCLAVE_TESTS_DEMO_CLUSTER_H_

#include <memory>
#include <vector>

#include "expert_service/expert_shard.h"
#include "moe/checkpoint/checkpoint.h"
#include "moe/kernels/kernels.h"
#include "moe/transport/grpc/expert_grpc_service.h"
#include "moe/transport/transport.h"
#include "router_service/remote_experts.h"

namespace conclave {

// models/demo, opened once. Tests that use it need //models:demo in their data.
const Checkpoint& DemoCheckpoint();

// How rows reach the shards.
enum class DemoTransport { kInproc, kGrpc };

// Shards of the demo model, of one and two threads in turn, and a pool that reaches them. Over gRPC each shard has a
// server and the rows pass through sockets.
class DemoCluster {
 public:
  // Fails the running test where something cannot start. The kernels must outlive the cluster.
  DemoCluster(const Kernels& kernels, int shards, DemoTransport transport, int rows_max);
  ~DemoCluster();
  RemoteExperts& pool() { return *pool_; }

 private:
  std::vector<std::unique_ptr<ExpertShard>> shards_;
  std::vector<std::unique_ptr<GrpcExpertServer>> servers_;
  std::unique_ptr<RemoteExperts> pool_;
  std::unique_ptr<Transport> transport_;  // goes before the pool that it calls back
};

}  // namespace conclave

#endif  // CONCLAVE_TESTS_DEMO_CLUSTER_H_
