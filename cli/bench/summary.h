// Many samples as a few numbers.
#ifndef CONCLAVE_CLI_BENCH_SUMMARY_H_
#define CONCLAVE_CLI_BENCH_SUMMARY_H_

#include <cstdint>
#include <vector>

namespace conclave {

// Of `count` samples; all zero where there is none.
struct Summary {
  int64_t count = 0;
  double mean = 0, p50 = 0, p90 = 0, p99 = 0, max = 0;
};

// Takes a copy to sort it.
Summary Summarize(std::vector<double> samples);

}  // namespace conclave

#endif  // CONCLAVE_CLI_BENCH_SUMMARY_H_
