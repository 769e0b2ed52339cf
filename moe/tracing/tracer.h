// Begins and ends spans, and decides which traces are kept.
#ifndef CONCLAVE_MOE_TRACING_TRACER_H_
#define CONCLAVE_MOE_TRACING_TRACER_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "moe/metrics/metrics.h"
#include "moe/tracing/span.h"
#include "moe/tracing/span_exporter.h"

namespace conclave {

// Whether and where a process sends its traces; flags are in moe/daemon/tracing_flags.h.
struct TracingOptions {
  std::string endpoint;              // http://HOST:PORT of a collector that takes OTLP over HTTP; empty: no traces
  std::vector<std::string> headers;  // NAME=VALUE, sent with every batch
  double ratio = 1.0;                // of the traces that begin here; others follow the one who began them
  absl::Status Validate() const;     // INVALID_ARGUMENT names the flag
};

// Thread-safe. Without an endpoint nothing is made, kept or parsed: callers ask enabled() first.
class Tracer {
 public:
  // `service`: "conclave-gateway"; `instance`: the process's name. `metrics` must outlive it.
  // REQUIRES: options.Validate().ok()
  static std::unique_ptr<Tracer> Create(const TracingOptions& options, absl::string_view service,
                                        absl::string_view instance, Metrics& metrics);
  // Sends what is left.
  ~Tracer() = default;

  bool enabled() const { return exporter_ != nullptr; }

  // The caller's context from its headers. Not valid where there is none, or where it is malformed (one value that
  // cannot be read, or several), which is counted.
  TraceContext Accept(absl::Span<const absl::string_view> traceparents, absl::string_view tracestate);

  // A span under `parent`; the root of a new trace where that is not valid, sampled by the ratio (a trace is kept where
  // the last 56 bits of its id, which are random, are at least (1 - ratio) × 2^56: OpenTelemetry's consistent
  // probability sampling). `start`: now or earlier. REQUIRES: enabled()
  Span Start(std::string name, SpanKind kind, const TraceContext& parent, absl::Time start) const;
  // Hands the span on where it is sampled; never blocks. REQUIRES: enabled()
  void End(Span span, absl::Time end);

 private:
  Tracer(double ratio, Counter* malformed) : ratio_(ratio), malformed_(malformed) {}

  const double ratio_;
  Counter* const malformed_;
  std::unique_ptr<SpanExporter> exporter_;  // null: no traces
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_TRACING_TRACER_H_
