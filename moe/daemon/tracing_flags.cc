#include "moe/daemon/tracing_flags.h"

namespace conclave {

void AddTracingFlags(Flags& flags, TracingOptions& options) {
  flags.Add("otlp-endpoint", &options.endpoint,
            "http://HOST:PORT of a collector that gets traces as OTLP over HTTP, in JSON; empty: no traces");
  flags.Add("otlp-header", &options.headers, "NAME=VALUE, an HTTP header that goes with every batch of traces");
  flags.Add("trace-ratio", &options.ratio,
            "share of the traces that begin here and are kept, 0 to 1; requests with a traceparent follow its flag");
}

}  // namespace conclave
