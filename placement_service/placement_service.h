// The controller of placements as a process: options, and the life from start to a graceful end.
#ifndef CONCLAVE_PLACEMENT_SERVICE_PLACEMENT_SERVICE_H_
#define CONCLAVE_PLACEMENT_SERVICE_PLACEMENT_SERVICE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "moe/daemon/daemon.h"
#include "moe/daemon/flags.h"
#include "moe/daemon/tls.h"

namespace conclave {

// Filled from flags by main.
struct PlacementServiceOptions {
  DaemonOptions daemon;
  std::vector<std::string> shards;  // host:port of each expert shard, or where to find them
  absl::Duration discovery_interval = absl::Seconds(2);
  absl::Duration interval = absl::Seconds(10);  // between the beginnings of two rounds
  absl::Duration half_life = absl::Seconds(60);
  double gain = 0.1;
  double spare = 0.25;
  int max_moves = 16;
  int64_t load_rate = int64_t{256} << 20;  // bytes per second
  bool once = false;
  bool dry_run = false;
  TlsClientOptions shard_tls;

  PlacementServiceOptions() { daemon.name = "placement"; }
  void AddTo(Flags& flags);
  // INVALID_ARGUMENT names the flag.
  absl::Status Validate() const;
};

// Does rounds until SIGTERM, or one alone, whose table it prints. Errors name what could not be listened on, or why the
// one round failed. Must be called before other threads start.
absl::Status RunPlacementService(const PlacementServiceOptions& options);

}  // namespace conclave

#endif  // CONCLAVE_PLACEMENT_SERVICE_PLACEMENT_SERVICE_H_
