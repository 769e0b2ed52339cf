// How long prompts and answers are.
#ifndef CONCLAVE_CLI_BENCH_LENGTH_DISTRIBUTION_H_
#define CONCLAVE_CLI_BENCH_LENGTH_DISTRIBUTION_H_

#include <string>

#include "absl/status/statusor.h"
#include "cli/bench/random_numbers.h"

namespace conclave {

// A distribution of whole numbers of at least 1.
class LengthDistribution {
 public:
  // "128" or "fixed:128"; "uniform:64-256", both ends included; "lognormal:MEDIAN,SIGMA[,MAX]", where SIGMA is the
  // standard deviation of the logarithm, and what exceeds MAX becomes MAX. INVALID_ARGUMENT: anything else.
  static absl::StatusOr<LengthDistribution> Parse(const std::string& text);
  int Draw(RandomNumbers& random) const;

 private:
  enum class Kind { kFixed, kUniform, kLogNormal };
  Kind kind_ = Kind::kFixed;
  int minimum_ = 1, maximum_ = 1;
  double median_ = 1, sigma_ = 0;
};

}  // namespace conclave

#endif  // CONCLAVE_CLI_BENCH_LENGTH_DISTRIBUTION_H_
