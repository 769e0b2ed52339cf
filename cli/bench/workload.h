// What a benchmark asks, and when: drawn from distributions, or read from a trace.
#ifndef CONCLAVE_CLI_BENCH_WORKLOAD_H_
#define CONCLAVE_CLI_BENCH_WORKLOAD_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "cli/bench/length_distribution.h"

namespace conclave {

// One request that is to be sent.
struct WorkItem {
  absl::Duration arrival;       // since the start; without meaning where the concurrency is fixed
  std::vector<int32_t> prompt;  // token ids
  int output_tokens = 1;
};

// Makes prompts of a given length from ids that the model's tokenizer really uses.
class PromptMaker {
 public:
  // `ids`: those of some ordinary text. REQUIRES: not empty
  PromptMaker(std::vector<int32_t> ids, uint64_t seed) : ids_(std::move(ids)), seed_(seed) {}
  // Appends `count` ids, which depend on the seed and `stream` alone.
  void Append(uint64_t stream, int count, std::vector<int32_t>& prompt) const;

 private:
  std::vector<int32_t> ids_;
  uint64_t seed_;
};

// Requests in order of arrival. Not thread-safe.
class Workload {
 public:
  virtual ~Workload() = default;
  // The next request; none: that was all.
  virtual std::optional<WorkItem> Next() = 0;
};

// What is drawn: the same requests for the same seed.
struct SyntheticOptions {
  double rate = 0;               // a second, as a Poisson process; 0: no arrivals, the concurrency is fixed
  int64_t requests = 0;          // 0: without end
  int shared_prefix_tokens = 0;  // at the beginning of every prompt, the same in all; on top of its length
  LengthDistribution input, output;
  uint64_t seed = 1;
};
// `prompts` must outlive it.
std::unique_ptr<Workload> NewSyntheticWorkload(const SyntheticOptions& options, const PromptMaker& prompts);

// One line of a trace: a JSON object with "timestamp" (milliseconds since the start, ascending), "input_length" and
// "output_length" (tokens), and optionally "hash_ids": a prompt is then made of blocks of 512 tokens, and blocks of the
// same id are the same tokens. This is the format of Mooncake's traces (Qin et al., FAST 2025); other keys are ignored.
struct TraceLine {
  double timestamp_ms = 0;
  int input_length = 1, output_length = 1;
  std::vector<uint64_t> hash_ids;
};
// INVALID_ARGUMENT says which key is wrong.
absl::StatusOr<TraceLine> ParseTraceLine(absl::string_view line);
// INVALID_ARGUMENT names the file, the line and what is wrong with it.
absl::StatusOr<std::vector<TraceLine>> ReadTrace(const std::string& path);
// Arrivals at `speed` times the trace's pace; of the trace's first `requests` lines, 0: all. `prompts` must outlive it.
std::unique_ptr<Workload> NewTraceWorkload(std::vector<TraceLine> lines, double speed, int64_t requests,
                                           const PromptMaker& prompts);

}  // namespace conclave

#endif  // CONCLAVE_CLI_BENCH_WORKLOAD_H_
