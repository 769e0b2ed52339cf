// Sends a workload to a gateway at its pace, or with a fixed number of requests at once.
#ifndef CONCLAVE_CLI_BENCH_LOAD_RUNNER_H_
#define CONCLAVE_CLI_BENCH_LOAD_RUNNER_H_

#include <boost/asio/io_context.hpp>
#include <cstdint>
#include <deque>
#include <functional>

#include "absl/time/time.h"
#include "cli/bench/load_client.h"
#include "cli/bench/request_record.h"
#include "cli/bench/workload.h"

namespace conclave {

// How a workload is sent.
struct LoadPlan {
  // Requests are sent at their arrivals, whether or not others are answered. Else one follows another, and what
  // `arrival` says does not matter.
  bool open_loop = false;
  int concurrency = 1;  // requests at once, at most; one that has to wait for others is late, and measured so
  // Nothing that arrives later is sent, and in a closed loop nothing is sent later.
  absl::Duration duration = absl::InfiniteDuration();
  // Not in an open loop: who is refused sends the next request only when the refusal says so.
  bool obey_retry_after = true;
};

// Where a run stands.
struct LoadProgress {
  absl::Duration elapsed;
  int running = 0;
  int64_t answered = 0, refused = 0, errors = 0, output_tokens = 0;
};

// What a run came to.
struct LoadResult {
  std::deque<RequestRecord> records;  // in the order in which they were sent
  absl::Duration elapsed;             // from the start until the last request had ended
  double cpu_seconds = 0;             // that this process used meanwhile
  bool interrupted = false;
};

// Runs on this thread, and `client` on it too where it works on `context`. `progress` is called twice a second; empty:
// never. SIGINT ends the run: requests under way are cancelled.
LoadResult RunLoad(boost::asio::io_context& context, LoadClient& client, Workload& workload, const LoadPlan& plan,
                   std::function<void(const LoadProgress&)> progress);

}  // namespace conclave

#endif  // CONCLAVE_CLI_BENCH_LOAD_RUNNER_H_
