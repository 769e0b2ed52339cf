// conclave.v1.RouterService: a thin adapter between gRPC and the engine.
#ifndef CONCLAVE_ROUTER_SERVICE_SERVICE_H_
#define CONCLAVE_ROUTER_SERVICE_SERVICE_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "moe/metrics/metrics.h"
#include "moe/placement/placement.h"
#include "moe/tracing/tracer.h"
#include "router_service/engine.h"

namespace grpc {
class Service;
}

namespace conclave {

// Who answers GetStatus.
struct RouterIdentity {
  std::string model_id;           // what clients call the model
  std::string model_fingerprint;  // Checkpoint::fingerprint
  std::string numeric_profile;
  std::string family;   // ModelSpec::model_type
  int context_max = 0;  // of the engine
  int vocab = 0;
};

// One shard, as GetExpertMap shows it.
struct ShardView {
  std::string address;  // host:port; empty: in this process
  bool healthy = true;
  ShardHoldings holdings;
  uint64_t rows_total = 0;
  bool avoided = false;  // for the moment, though it is there
};
// All shards, and the epoch of the placement that says so.
struct ExpertMapView {
  uint64_t placement_epoch = 0;
  std::vector<ShardView> shards;
};

// Thread-safe. Calls never hold a thread while they wait: streams are fed by the engine's thread.
class RouterGrpcService {
 public:
  // `metrics` must outlive it. per_expert_metrics: one series for every expert of every layer.
  static std::unique_ptr<RouterGrpcService> Create(Metrics& metrics, bool per_expert_metrics = false);
  virtual ~RouterGrpcService() = default;

  // To be registered with a server. Owned by this object, which must outlive the server.
  virtual grpc::Service* service() = 0;
  // From now on calls are traced, where `tracer` is on; it must outlive this object.
  virtual void SetTracer(Tracer* tracer) = 0;
  // From now on calls go to `engine`, which must outlive this object; until then they are refused with UNAVAILABLE.
  // `expert_map` is called by any thread. Called once.
  virtual void SetEngine(Engine* engine, const RouterIdentity& identity, std::function<ExpertMapView()> expert_map) = 0;
  // Refuses new sequences and returns when the last stream has gone, or at `deadline`.
  virtual void Drain(absl::Time deadline) = 0;
};

}  // namespace conclave

#endif  // CONCLAVE_ROUTER_SERVICE_SERVICE_H_
