// Trace contexts and spans of gRPC calls. For .cc files of services: it brings gRPC's headers.
#ifndef CONCLAVE_MOE_DAEMON_GRPC_TRACE_H_
#define CONCLAVE_MOE_DAEMON_GRPC_TRACE_H_

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "grpcpp/client_context.h"
#include "grpcpp/server_context.h"
#include "moe/tracing/tracer.h"

namespace conclave {

// The span of a call that arrives, under the caller's traceparent; named "SERVICE/METHOD". `start`: its arrival.
// REQUIRES: tracer.enabled()
Span StartCallSpan(Tracer& tracer, const grpc::ServerContextBase& context, absl::string_view service,
                   absl::string_view method, absl::Time start);
// Ends it with the call's status.
void EndCallSpan(Tracer& tracer, Span span, const absl::Status& status, absl::Time end);

// Lets a call that has not begun carry the context on; nothing where it is not valid.
void AddTraceMetadata(const TraceContext& trace, grpc::ClientContext& context);

}  // namespace conclave

#endif  // CONCLAVE_MOE_DAEMON_GRPC_TRACE_H_
