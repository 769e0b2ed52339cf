// Everything that an attention service computes with, put together in order: checkpoint, threads, experts, engine.
#ifndef CONCLAVE_ROUTER_SERVICE_SERVING_STACK_H_
#define CONCLAVE_ROUTER_SERVICE_SERVING_STACK_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "moe/base/thread_options.h"
#include "moe/checkpoint/checkpoint.h"
#include "moe/metrics/metrics.h"
#include "moe/model/device/compute_target.h"
#include "moe/tensor/row_format.h"
#include "moe/transport/dial/dial_shards.h"
#include "router_service/engine.h"
#include "router_service/service.h"

namespace grpc {
class ChannelCredentials;
}

namespace conclave {

// What to serve and on what; checked by RouterServiceOptions.
struct ServingStackOptions {
  std::string directory;                              // of the model
  std::string model_id;                               // what GetStatus calls it
  std::vector<std::string> shards;  // host:port of each, or where to find them (PeerList); empty: experts run here
  absl::Duration discovery_interval = absl::Seconds(2);
  absl::Duration shard_wait = absl::Minutes(30);      // for shards that load
  absl::Duration shard_grace = absl::Seconds(10);     // for shards that cannot be reached
  absl::Duration expert_timeout = absl::Seconds(60);  // of one layer, until its experts have answered
  bool checksum = true;                               // of activations on their way
  TransportKind transport = TransportKind::kAuto;
  std::string router_name = "router";  // what shards call this process
  RowFormat row_format = RowFormat::kCompute;  // of rows on their way to experts, wherever those are
  bool allow_mixed_numerics = false;
  TargetOptions target;
  ThreadPlan threads;
  std::shared_ptr<grpc::ChannelCredentials> shard_credentials;  // null: plaintext
  bool load = true;                                             // bring the weights into memory first
  EngineOptions engine;  // context_max 0: as much as the KV cache holds, at most the model's limit
};

// Owns the engine and all that it stands on.
class ServingStack {
 public:
  // Blocks while weights are loaded and shards are waited for, with log lines of progress. `metrics` must outlive the
  // stack. Errors are those of Checkpoint::Open, of RemoteExperts::Create and of Engine::Create; DEADLINE_EXCEEDED
  // names a shard that is not ready in time.
  static absl::StatusOr<std::unique_ptr<ServingStack>> Create(const ServingStackOptions& options, Metrics& metrics);
  virtual ~ServingStack() = default;
  virtual Engine& engine() = 0;
  virtual const RouterIdentity& identity() const = 0;
  virtual ExpertMapView ExpertMap() const = 0;  // thread-safe
};

}  // namespace conclave

#endif  // CONCLAVE_ROUTER_SERVICE_SERVING_STACK_H_
