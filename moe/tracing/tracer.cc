#include "moe/tracing/tracer.h"

#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "moe/base/check.h"
#include "moe/base/status_macros.h"

namespace conclave {
namespace {

constexpr char kTracesPath[] = "/v1/traces";
constexpr size_t kErrorBytesMax = 1024;

// Ids need to be unique, not secret: each thread draws them from an engine that the machine's randomness has seeded.
uint64_t Random64() {
  thread_local std::mt19937_64 engine = [] {
    std::random_device device;
    std::seed_seq seed{device(), device(), device(), device(), device(), device(), device(), device()};
    return std::mt19937_64(seed);
  }();
  return engine();
}

template <size_t N>
std::array<uint8_t, N> RandomId() {
  std::array<uint8_t, N> id{};
  do {
    for (size_t i = 0; i < N; i += sizeof(uint64_t)) {
      const uint64_t bits = Random64();
      std::memcpy(id.data() + i, &bits, sizeof(bits));
    }
  } while (id == std::array<uint8_t, N>{});
  return id;
}

bool KeptBy(double ratio, const TraceId& id) {
  uint64_t random = 0;
  for (size_t i = 9; i < id.size(); ++i) random = random << 8 | id[i];
  return static_cast<double>(random) >= (1 - ratio) * static_cast<double>(uint64_t{1} << 56);
}

// Where OTLP's traces go at an endpoint, by the specification: below its path, unless that says so already.
absl::StatusOr<HttpUrl> TracesUrl(const std::string& endpoint) {
  ASSIGN_OR_RETURN(HttpUrl url, ParseHttpUrl(endpoint));
  if (absl::EndsWith(url.path, kTracesPath)) return url;
  if (url.path.back() == '/') url.path.pop_back();
  url.path += kTracesPath;
  return url;
}

absl::StatusOr<std::pair<std::string, std::string>> ParseHeader(const std::string& text) {
  const size_t equals = text.find('=');
  if (equals == std::string::npos || equals == 0) {
    return absl::InvalidArgumentError("--otlp-header: must be NAME=VALUE");
  }
  const std::string name = text.substr(0, equals), value = text.substr(equals + 1);
  const bool is_name = std::all_of(name.begin(), name.end(), [](unsigned char c) {
    return absl::ascii_isalnum(c) || absl::string_view("!#$%&'*+-.^_`|~").find(static_cast<char>(c)) !=
                                         absl::string_view::npos;
  });
  const bool is_value =
      std::all_of(value.begin(), value.end(), [](unsigned char c) { return absl::ascii_isprint(c) || c == '\t'; });
  // The value may be a secret: the message does not repeat it.
  if (!is_name || !is_value) {
    return absl::InvalidArgumentError("--otlp-header: holds a character that no HTTP header may have");
  }
  return std::make_pair(name, value);
}

std::string HostName() {
  char name[256] = {};
  return ::gethostname(name, sizeof(name) - 1) == 0 ? name : "unknown";
}

SpanCounters CountersOf(Metrics& metrics) {
  const auto counter = [&metrics](const char* outcome) {
    return metrics.AddCounter("conclave_tracing_spans_total",
                              "Spans by what became of them: sent to the collector, dropped for a full queue, failed.",
                              {{"outcome", outcome}});
  };
  return {counter("sent"), counter("dropped"), counter("failed")};
}

}  // namespace

absl::Status TracingOptions::Validate() const {
  if (!(ratio >= 0 && ratio <= 1)) {
    return absl::InvalidArgumentError(absl::StrCat("--trace-ratio: ", ratio, " is not in [0, 1]"));
  }
  for (const std::string& header : headers) RETURN_IF_ERROR(ParseHeader(header).status());
  if (endpoint.empty()) return absl::OkStatus();
  if (const auto url = TracesUrl(endpoint); !url.ok()) {
    return absl::InvalidArgumentError(absl::StrCat("--otlp-endpoint: ", url.status().message()));
  }
  return absl::OkStatus();
}

std::unique_ptr<Tracer> Tracer::Create(const TracingOptions& options, absl::string_view service,
                                       absl::string_view instance, Metrics& metrics) {
  const SpanCounters counters = CountersOf(metrics);
  std::unique_ptr<Tracer> tracer(new Tracer(
      options.ratio, metrics.AddCounter("conclave_tracing_malformed_parents_total",
                                        "Requests whose traceparent could not be read; they began a new trace.", {})));
  if (options.endpoint.empty()) return tracer;
  SpanExporterOptions exporter;
  const absl::StatusOr<HttpUrl> url = TracesUrl(options.endpoint);
  CONCLAVE_CHECK(url.ok()) << url.status();
  exporter.collector = *url;
  for (const std::string& header : options.headers) exporter.headers.push_back(*ParseHeader(header));
  exporter.resource = {{"service.name", std::string(service)},
                       {"service.namespace", std::string("conclave")},
                       {"service.instance.id", absl::StrCat(HostName(), "/", instance, "/", ::getpid())},
                       {"host.name", HostName()},
                       {"process.pid", static_cast<int64_t>(::getpid())}};
  tracer->exporter_ = std::make_unique<SpanExporter>(std::move(exporter), counters);
  return tracer;
}

TraceContext Tracer::Accept(absl::Span<const absl::string_view> traceparents, absl::string_view tracestate) {
  if (traceparents.empty()) return {};
  auto context = ParseTraceparent(traceparents.front());
  if (!context.has_value() || traceparents.size() > 1) {
    malformed_->Add(1);
    return {};
  }
  context->state = CheckedTracestate(tracestate);
  return *std::move(context);
}

Span Tracer::Start(std::string name, SpanKind kind, const TraceContext& parent, absl::Time start) const {
  Span span;
  span.name = std::move(name);
  span.kind = kind;
  span.start = start;
  if (parent.valid()) {
    span.context = parent;
    span.context.remote = false;
    span.parent = parent.span_id;
    span.remote_parent = parent.remote;
  } else {
    span.context.trace_id = RandomId<16>();
    span.context.sampled = KeptBy(ratio_, span.context.trace_id);
  }
  span.context.span_id = RandomId<8>();
  return span;
}

void Tracer::End(Span span, absl::Time end) {
  if (!span.sampled()) return;
  span.end = end;
  if (span.error.size() > kErrorBytesMax) span.error.resize(kErrorBytesMax);
  exporter_->Add(std::move(span));
}

}  // namespace conclave
