// What an engine tells of itself.
#ifndef CONCLAVE_ROUTER_SERVICE_ENGINE_STATS_H_
#define CONCLAVE_ROUTER_SERVICE_ENGINE_STATS_H_

#include <cstdint>

namespace conclave {

// How an engine stands after its last step.
struct EngineStats {
  int64_t queued = 0, running = 0;
  int64_t queued_max = 0, running_max = 0;
  int64_t kv_blocks_used = 0;    // by sequences, and by the prefix cache
  int64_t kv_blocks_cached = 0;  // of them: what no sequence holds; free whenever it is needed
  int64_t kv_blocks_total = 0;
  int64_t preemptions = 0;        // since start: sequences that gave their blocks back to be recomputed later
  int64_t experts_last_step = 0;  // that got rows in it, over all layers
  int64_t kv_blocks_held() const { return kv_blocks_used - kv_blocks_cached; }
};

}  // namespace conclave

#endif  // CONCLAVE_ROUTER_SERVICE_ENGINE_STATS_H_
