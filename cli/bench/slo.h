// What a user would call a good answer.
#ifndef CONCLAVE_CLI_BENCH_SLO_H_
#define CONCLAVE_CLI_BENCH_SLO_H_

#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "cli/bench/request_record.h"

namespace conclave {

// Upper bounds, in milliseconds; empty: none.
struct Slo {
  std::optional<double> ttft_ms;  // until the first token
  std::optional<double> itl_ms;   // each gap between two pieces of the answer
  std::optional<double> tpot_ms;  // the mean time of a token after the first
  std::optional<double> e2e_ms;   // until the end

  // "ttft=500ms,itl=100ms,tpot=50ms,e2e=10s", in any order; empty: no bound. INVALID_ARGUMENT names the part that is
  // wrong.
  static absl::StatusOr<Slo> Parse(const std::string& text);
  bool any() const { return ttft_ms || itl_ms || tpot_ms || e2e_ms; }
  // Whether a request was answered, and within all bounds.
  bool Meets(const RequestRecord& record) const;
};

}  // namespace conclave

#endif  // CONCLAVE_CLI_BENCH_SLO_H_
