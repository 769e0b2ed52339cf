// The expert shard as a process: options, and the life from start to a graceful end.
#ifndef CONCLAVE_EXPERT_SERVICE_EXPERT_SERVICE_H_
#define CONCLAVE_EXPERT_SERVICE_EXPERT_SERVICE_H_

#include <string>

#include "absl/status/status.h"
#include "moe/base/thread_options.h"
#include "moe/checkpoint/model_dir.h"
#include "moe/daemon/daemon.h"
#include "moe/daemon/flags.h"
#include "moe/model/device/compute_target.h"

namespace conclave {

// Filled from flags by main.
struct ExpertServiceOptions {
  DaemonOptions daemon;  // its name is "expert-<shard-index>" where none is given
  std::string model;     // a directory or org/name[@revision]
  int shard_index = 0;
  int shard_count = 1;
  int replicas = 1;  // on how many shards each expert lives
  TargetOptions target;
  ThreadOptions threads;
  int64_t expert_bytes_max = 0;  // stored bytes of all experts held; 0: no limit
  bool per_expert_metrics = false;
  std::string ucx_address;       // numeric host:port where routers connect for UCX; empty: none
  std::string nccl_address;      // the same for NCCL
  int nccl_routers = 1;          // that may connect over NCCL; the device's memory is planned for their rows
  bool load = true;              // bring all weights into memory before saying ready
  HubEnvironment hub;            // read by main

  void AddTo(Flags& flags);
  // INVALID_ARGUMENT names the flag.
  absl::Status Validate() const;
};

// Listens, loads, says ready, serves until SIGTERM, finishes what runs. Errors name what could not be opened or
// listened on. Must be called before other threads start.
absl::Status RunExpertService(const ExpertServiceOptions& options);

}  // namespace conclave

#endif  // CONCLAVE_EXPERT_SERVICE_EXPERT_SERVICE_H_
