#include "moe/tracing/span_exporter.h"

#include <algorithm>
#include <iterator>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "moe/base/log.h"
#include "moe/base/status_macros.h"
#include "moe/tracing/otlp_json.h"

namespace conclave {

SpanExporter::SpanExporter(SpanExporterOptions options, const SpanCounters& counters)
    : options_(std::move(options)), counters_(counters) {
  queue_.reserve(options_.queue_spans_max);
  thread_ = std::thread([this] { Run(); });
}

SpanExporter::~SpanExporter() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
    stop_deadline_ = absl::Now() + options_.stop_timeout;
  }
  wake_.notify_all();
  thread_.join();
}

void SpanExporter::Add(Span&& span) {
  bool wake = false;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (queue_.size() >= options_.queue_spans_max) {
      counters_.dropped->Add(1);
      return;
    }
    queue_.push_back(std::move(span));
    // The first one starts the interval, a full batch ends it.
    wake = queue_.size() == 1 || queue_.size() == options_.batch_spans_max;
  }
  if (wake) wake_.notify_one();
}

void SpanExporter::Run() {
  std::vector<Span> batch;
  while (true) {
    batch.clear();
    {
      std::unique_lock<std::mutex> lock(mutex_);
      wake_.wait(lock, [this] { return stopping_ || !queue_.empty(); });
      wake_.wait_for(lock, absl::ToChronoNanoseconds(options_.flush_interval),
                     [this] { return stopping_ || queue_.size() >= options_.batch_spans_max; });
      if (queue_.empty()) return;  // only where stopping
      const auto end = queue_.begin() + static_cast<std::ptrdiff_t>(std::min(queue_.size(), options_.batch_spans_max));
      std::move(queue_.begin(), end, std::back_inserter(batch));
      queue_.erase(queue_.begin(), end);
    }
    Send(batch);
  }
}

void SpanExporter::Pause(absl::Duration pause) {
  std::unique_lock<std::mutex> lock(mutex_);
  wake_.wait_for(lock, absl::ToChronoNanoseconds(pause), [this] { return stopping_; });
}

absl::Duration SpanExporter::TimeLeft() {
  std::lock_guard<std::mutex> lock(mutex_);
  return std::min(options_.post_timeout, stop_deadline_ - absl::Now());
}

void SpanExporter::Send(const std::vector<Span>& batch) {
  const std::string body = OtlpTraces(options_.resource, batch);
  absl::Status status = absl::UnavailableError("the process ended first");
  int64_t rejected = 0;
  absl::Duration pause = options_.retry_pause;
  for (int tried = 0; tried < options_.tries_max && TimeLeft() > absl::ZeroDuration(); ++tried, pause *= 2) {
    if (tried > 0) Pause(pause);
    bool retry = false;
    status = Post(body, &rejected, &retry);
    if (status.ok() || !retry) break;
  }
  const int64_t count = static_cast<int64_t>(batch.size());
  rejected = status.ok() ? std::min(rejected, count) : count;
  counters_.sent->Add(static_cast<double>(count - rejected));
  counters_.failed->Add(static_cast<double>(rejected));
  if (rejected == 0) {
    complained_ = false;
  } else if (!complained_) {
    complained_ = true;
    LogWarning(absl::StrCat("traces: ", rejected, " of ", count, " spans did not reach the collector at ",
                            options_.collector.host, ":", options_.collector.port, ": ",
                            status.ok() ? "it refused them" : status.message(),
                            "; more of this is only counted, until some arrive"));
  }
}

absl::Status SpanExporter::Post(const std::string& body, int64_t* rejected, bool* retry) {
  std::vector<std::pair<std::string, std::string>> headers = options_.headers;
  headers.emplace_back("Content-Type", "application/json");
  const absl::StatusOr<HttpAnswer> answer = HttpPost(options_.collector, headers, body, TimeLeft());
  *retry = !answer.ok();
  RETURN_IF_ERROR(answer.status());
  if (answer->status / 100 == 2) {
    *rejected = RejectedSpans(answer->body);
    return absl::OkStatus();
  }
  // The ones that the OTLP specification calls retryable.
  *retry = answer->status == 429 || answer->status == 502 || answer->status == 503 || answer->status == 504;
  return absl::UnavailableError(absl::StrCat("it answered with HTTP status ", answer->status));
}

}  // namespace conclave
