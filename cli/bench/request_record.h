// What is noted of one request of a benchmark.
#ifndef CONCLAVE_CLI_BENCH_REQUEST_RECORD_H_
#define CONCLAVE_CLI_BENCH_REQUEST_RECORD_H_

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"

namespace conclave {

using Instant = std::chrono::steady_clock::time_point;

inline double MillisecondsBetween(Instant from, Instant to) {
  return std::chrono::duration<double, std::milli>(to - from).count();
}

// kRefused: the server had no room (HTTP 429, gRPC RESOURCE_EXHAUSTED) and said so before its answer began. kError:
// anything else that is no whole answer, errors within the stream included. kAbandoned: the benchmark was interrupted.
enum class Outcome { kRunning, kAnswered, kRefused, kError, kAbandoned };

// Written by whoever carries the request, read when it has ended.
struct RequestRecord {
  Instant intended;  // when it should have been sent; latencies are counted from here
  Instant sent;      // when it was
  Instant first;     // when the first token came
  Instant last;      // when the last piece of the answer came
  Instant end;       // when it was over
  bool began = false;
  std::vector<float> gaps_ms;  // between successive pieces of the answer

  int64_t input_tokens = 0, output_tokens = 0, cached_tokens = 0;
  Outcome outcome = Outcome::kRunning;
  std::string error;                          // what went wrong, in one line
  std::optional<absl::Duration> retry_after;  // what a refusal said

  // A piece of the answer with at least one token has come.
  void AddPiece(Instant now) {
    if (began) {
      gaps_ms.push_back(static_cast<float>(MillisecondsBetween(last, now)));
    } else {
      first = now;
      began = true;
    }
    last = now;
  }
  void Finish(Outcome result, Instant now) {
    outcome = result;
    end = now;
  }
  void Fail(std::string why, Instant now) {
    error = std::move(why);
    Finish(Outcome::kError, now);
  }

  double lateness_ms() const { return MillisecondsBetween(intended, sent); }
  double ttft_ms() const { return MillisecondsBetween(intended, first); }
  double e2e_ms() const { return MillisecondsBetween(intended, end); }
  // REQUIRES: output_tokens > 1
  double tpot_ms() const { return MillisecondsBetween(first, last) / static_cast<double>(output_tokens - 1); }
};

}  // namespace conclave

#endif  // CONCLAVE_CLI_BENCH_REQUEST_RECORD_H_
