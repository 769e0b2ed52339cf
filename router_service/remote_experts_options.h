// What a pool of remote experts is told, and what it counts.
#ifndef CONCLAVE_ROUTER_SERVICE_REMOTE_EXPERTS_OPTIONS_H_
#define CONCLAVE_ROUTER_SERVICE_REMOTE_EXPERTS_OPTIONS_H_

#include <cstdint>
#include <string>

#include "absl/time/time.h"
#include "moe/base/clock.h"
#include "moe/kernels/accelerator/accelerator.h"
#include "moe/metrics/metrics.h"
#include "moe/tensor/buffer.h"
#include "moe/tensor/row_format.h"
#include "moe/transport/shard_control.h"
#include "router_service/shard_health.h"

namespace conclave {

// Sizes, expectations and patience.
struct RemoteExpertsOptions {
  int rows_max = 512;                 // rows of one Start; memory is sized for it
  std::string model_fingerprint;      // what the shards must serve: Checkpoint::fingerprint
  RowFormat row_format = RowFormat::kCompute;  // to which rows are rounded before they are sent
  HostMemory memory;                  // where rows and replies lie on the host; null: anywhere
  // In whose memory they lie where the transport takes them there and `row_format` does not have them rounded on the
  // host; null: on the host.
  Accelerator* accelerator = nullptr;
  bool allow_mixed_numerics = false;  // shards of other numeric profiles; the same bits are then not promised
  absl::Duration timeout = absl::Seconds(60);  // of one ticket, all attempts together
  // A call that could go to another holder is given `late_factor` times what hardly any call takes, within these
  // bounds. One that could not, or of which nothing is known, has late_max.
  absl::Duration late_min = absl::Milliseconds(250), late_max = absl::Seconds(20);
  double late_factor = 4;
  // After what hardly any call takes, and at least this, rows go to a second holder too: at most this share. 0: never.
  absl::Duration hedge_min = absl::Milliseconds(5);
  double hedge_share = 0.05;
  OutlierOptions outliers;
  ShardControl* control = nullptr;  // null: shards are never asked anything, and no expert finds a new holder
  Clock* clock = Clock::Real();
  Metrics* metrics = nullptr;
};

// What became of calls since start.
struct FailoverCounts {
  int64_t sent_pairs = 0;    // first copies
  int64_t resent_pairs = 0;  // after a call failed
  int64_t hedged_pairs = 0;  // while a call was late
};

}  // namespace conclave

#endif  // CONCLAVE_ROUTER_SERVICE_REMOTE_EXPERTS_OPTIONS_H_
