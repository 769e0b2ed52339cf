// The flags that say whether and where a service sends its traces.
#ifndef CONCLAVE_MOE_DAEMON_TRACING_FLAGS_H_
#define CONCLAVE_MOE_DAEMON_TRACING_FLAGS_H_

#include "moe/daemon/flags.h"
#include "moe/tracing/tracer.h"

namespace conclave {

// Declares --otlp-endpoint, --otlp-header and --trace-ratio. `options` must outlive parsing; check it by Validate.
void AddTracingFlags(Flags& flags, TracingOptions& options);

}  // namespace conclave

#endif  // CONCLAVE_MOE_DAEMON_TRACING_FLAGS_H_
