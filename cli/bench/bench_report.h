// What a benchmark's records mean, for people and for programs.
#ifndef CONCLAVE_CLI_BENCH_BENCH_REPORT_H_
#define CONCLAVE_CLI_BENCH_BENCH_REPORT_H_

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "cli/bench/load_runner.h"
#include "cli/bench/slo.h"
#include "cli/bench/summary.h"

namespace conclave {

// Times in milliseconds. Latencies are those of requests that were answered whole, counted from when a request should
// have been sent. TTFT, ITL, TPOT and end-to-end time are defined as in vLLM's serving benchmark
// (docs/benchmarking.md).
struct BenchFigures {
  int64_t sent = 0, answered = 0, refused = 0, errors = 0, abandoned = 0, good = 0;
  int64_t input_tokens = 0, cached_tokens = 0, output_tokens = 0;  // of requests that were answered
  int64_t good_output_tokens = 0;                                  // of those that met the SLO
  double seconds = 0;
  Summary ttft_ms, itl_ms, tpot_ms, e2e_ms;
  Summary refusal_ms, retry_after_ms;
  int64_t refusals_without_retry_after = 0;
  Summary lateness_ms;  // of the load generator itself, all requests
  double generator_cores = 0;
  bool interrupted = false;
  std::vector<std::pair<std::string, int64_t>> error_counts;  // the most frequent first
};

// All of a run's figures.
BenchFigures FiguresOf(const LoadResult& result, const Slo& slo);

// Lines of text. `slo`: whether there is one to speak of.
std::string ToText(const BenchFigures& figures, bool slo);
// One JSON object; `setup` stands in it as it is, by key.
std::string ToJson(const BenchFigures& figures, bool slo, const std::map<std::string, std::string>& setup);

}  // namespace conclave

#endif  // CONCLAVE_CLI_BENCH_BENCH_REPORT_H_
