// The attention service as a process: options, and the life from start to a graceful end.
#ifndef CONCLAVE_ROUTER_SERVICE_ROUTER_SERVICE_H_
#define CONCLAVE_ROUTER_SERVICE_ROUTER_SERVICE_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "moe/base/thread_options.h"
#include "moe/checkpoint/model_dir.h"
#include "moe/daemon/daemon.h"
#include "moe/daemon/flags.h"
#include "moe/daemon/tls.h"
#include "moe/model/device/compute_target.h"
#include "moe/tracing/tracer.h"
#include "router_service/engine.h"

namespace conclave {

// The command line, checked.
struct RouterServiceOptions {
  DaemonOptions daemon;
  std::string model;                // a directory or org/name[@revision]
  std::vector<std::string> shards;  // host:port of each expert shard, or where to find them
  std::string shards_file;          // a text file with one host:port a line, instead of the list
  absl::Duration discovery_interval = absl::Seconds(2);
  absl::Duration shard_wait = absl::Minutes(30);
  absl::Duration shard_grace = absl::Seconds(10);
  absl::Duration expert_timeout = absl::Seconds(60);
  bool checksum = true;  // of activations on their way
  std::string transport = "auto";  // auto, grpc, ucx or nccl: how activations reach the shards
  std::string kv_format = "compute";   // compute or fp8: what latents are rounded to before they are cached
  std::string row_format = "compute";  // compute or fp8: what rows on their way to experts are rounded to
  bool allow_mixed_numerics = false;
  TargetOptions target;
  ThreadOptions threads;
  bool load = true;              // bring the weights into memory before saying ready
  TlsClientOptions shard_tls;
  EngineOptions engine;
  bool per_expert_metrics = false;
  TracingOptions tracing;
  HubEnvironment hub;  // read by main

  RouterServiceOptions() { daemon.name = "router"; }
  void AddTo(Flags& flags);
  // INVALID_ARGUMENT names the flag.
  absl::Status Validate() const;
};

// Listens, loads, waits for the shards, says ready, serves until SIGTERM, finishes what runs. Errors name what could
// not be opened, reached or listened on. Must be called before other threads start.
absl::Status RunRouterService(const RouterServiceOptions& options);

}  // namespace conclave

#endif  // CONCLAVE_ROUTER_SERVICE_ROUTER_SERVICE_H_
