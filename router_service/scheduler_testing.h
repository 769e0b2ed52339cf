// For tests: the vocabulary of the scheduler's tests.
#ifndef CONCLAVE_ROUTER_SERVICE_SCHEDULER_TESTING_H_
#define CONCLAVE_ROUTER_SERVICE_SCHEDULER_TESTING_H_

#include <cstdint>
#include <numeric>
#include <vector>

#include "router_service/scheduler.h"

namespace conclave {

// Ends the sequences of TestScheduled.
inline constexpr int32_t kTestEos = 7;

// Small limits, and no prefix cache.
inline SchedulerOptions TestSchedulerOptions() {
  SchedulerOptions options;
  options.batch_tokens_max = 32;
  options.prefill_chunk_tokens_max = 8;
  options.logit_rows_max = 16;
  options.sequences_running_max = 4;
  options.sequences_queued_max = 8;
  options.context_max = 64;
  options.kv_blocks = 64;
  options.kv_block_tokens = 4;
  options.prefix_cache = false;
  return options;
}

// A prompt of `prompt` tokens: 100, 101, …
inline ScheduledRequest TestScheduled(uint64_t id, int prompt, int max_tokens) {
  ScheduledRequest request;
  request.sequence = SequenceId{id};
  request.prompt_ids.resize(prompt);
  std::iota(request.prompt_ids.begin(), request.prompt_ids.end(), 100);
  request.max_tokens = max_tokens;
  request.ending_ids = {kTestEos, 90};
  return request;
}

// Runs one step in which every sampling sequence gets `token`.
inline std::vector<ScheduledToken> Step(Scheduler& scheduler, int32_t token = 1) {
  const Batch& batch = scheduler.Next();
  const auto tokens = scheduler.Commit(batch, std::vector<int32_t>(batch.slices.size(), token));
  return {tokens.begin(), tokens.end()};
}

}  // namespace conclave

#endif  // CONCLAVE_ROUTER_SERVICE_SCHEDULER_TESTING_H_
