// Takes ended spans to a collector, in the background: whoever ends a span never waits, and what does not fit is
// dropped and counted.
#ifndef CONCLAVE_MOE_TRACING_SPAN_EXPORTER_H_
#define CONCLAVE_MOE_TRACING_SPAN_EXPORTER_H_

#include <condition_variable>
#include <cstddef>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "moe/metrics/metrics.h"
#include "moe/tracing/http_post.h"
#include "moe/tracing/span.h"

namespace conclave {

// Where spans go, and how patient the way there is.
struct SpanExporterOptions {
  HttpUrl collector;                                         // with the whole path
  std::vector<std::pair<std::string, std::string>> headers;  // beside Content-Type
  std::vector<SpanAttribute> resource;
  size_t queue_spans_max = 2048;
  size_t batch_spans_max = 512;
  absl::Duration flush_interval = absl::Seconds(1);  // a batch that is not full waits so long
  absl::Duration post_timeout = absl::Seconds(10);
  absl::Duration retry_pause = absl::Milliseconds(500);  // doubles with each try of one batch
  int tries_max = 4;
  absl::Duration stop_timeout = absl::Seconds(2);  // for what is left at the end
};

// Spans by what became of them.
struct SpanCounters {
  Counter* sent;
  Counter* dropped;  // the queue was full
  Counter* failed;   // the collector could not be reached in time, or refused them
};

// Thread-safe.
class SpanExporter {
 public:
  SpanExporter(SpanExporterOptions options, const SpanCounters& counters);
  // Sends what is left, for at most stop_timeout.
  ~SpanExporter();

  // Never blocks on the network.
  void Add(Span&& span);

 private:
  void Run();
  // Sleeps for at most `pause`, or until stopping.
  void Pause(absl::Duration pause);
  // One batch to its end, retries included.
  void Send(const std::vector<Span>& batch);
  absl::Status Post(const std::string& body, int64_t* rejected, bool* retry);
  absl::Duration TimeLeft();

  const SpanExporterOptions options_;
  const SpanCounters counters_;
  bool complained_ = false;  // since the last success; Run's alone
  std::mutex mutex_;
  std::condition_variable wake_;
  // Guarded by mutex_.
  std::vector<Span> queue_;
  bool stopping_ = false;
  absl::Time stop_deadline_ = absl::InfiniteFuture();
  std::thread thread_;  // last: it uses the others
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_TRACING_SPAN_EXPORTER_H_
