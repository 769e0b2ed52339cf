// Times prefill and decode of an engine. The figures mean what llama-bench's mean: pp512 is a prompt of 512 tokens,
// tg128 are 128 tokens after it began, one at a time.
#ifndef CONCLAVE_CLI_MODEL_TIMER_H_
#define CONCLAVE_CLI_MODEL_TIMER_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "cli/local_cluster.h"
#include "router_service/sampler.h"

namespace conclave {

// Used by one thread; the cluster, which must outlive it, has no other requests meanwhile. Prompts are random and
// differ from run to run, so that no cache of prefixes answers for the model. Tokens are chosen as `sampling` says,
// each sequence with a seed of its own. Errors are the engine's.
class ModelTimer {
 public:
  ModelTimer(LocalCluster& cluster, const SamplingParams& sampling) : cluster_(cluster), sampling_(sampling) {}

  // Tokens per second of reading a prompt: until its first answer, which the last row of the prompt gives.
  absl::StatusOr<double> Prefill(int tokens);
  // Tokens per second of `count` sequences that answer at the same time behind a context of `depth` tokens, all of
  // them together. The clock runs from when the last of them has its first token until the first of them ends, and
  // the tokens count that came meanwhile. FAILED_PRECONDITION: there was no such time.
  absl::StatusOr<double> Decode(int count, int tokens, int depth = 1);

 private:
  // What one sequence of a run told.
  struct Stream {
    std::vector<absl::Time> tokens;  // when each came
    absl::Status status;
  };
  absl::StatusOr<std::vector<Stream>> Run(int count, int prompt_tokens, int answer_tokens);

  LocalCluster& cluster_;
  const SamplingParams sampling_;
  uint64_t prompts_ = 0;
};

}  // namespace conclave

#endif  // CONCLAVE_CLI_MODEL_TIMER_H_
