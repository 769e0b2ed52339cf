// Spans as OTLP's JSON encoding of ExportTraceServiceRequest (OTLP specification 1.x, "JSON Protobuf Encoding").
#ifndef CONCLAVE_MOE_TRACING_OTLP_JSON_H_
#define CONCLAVE_MOE_TRACING_OTLP_JSON_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "moe/tracing/span.h"

namespace conclave {

// The body of one request: ids as lower-case hexadecimal digits, 64-bit numbers as text, enums as numbers.
// `resource`: attributes of the process.
std::string OtlpTraces(const std::vector<SpanAttribute>& resource, absl::Span<const Span> spans);

// How many spans the collector's answer says that it refused (partial success); 0 where it says nothing readable.
int64_t RejectedSpans(absl::string_view answer);

}  // namespace conclave

#endif  // CONCLAVE_MOE_TRACING_OTLP_JSON_H_
