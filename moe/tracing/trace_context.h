// Which trace a request belongs to, as it travels between processes: W3C Trace Context (level 2, sections 3.2 and 3.3).
#ifndef CONCLAVE_MOE_TRACING_TRACE_CONTEXT_H_
#define CONCLAVE_MOE_TRACING_TRACE_CONTEXT_H_

#include <array>
#include <cstdint>
#include <optional>
#include <string>

#include "absl/strings/string_view.h"

namespace conclave {

using TraceId = std::array<uint8_t, 16>;
using SpanId = std::array<uint8_t, 8>;

// Names of the HTTP header and of the gRPC metadata alike.
inline constexpr char kTraceparentHeader[] = "traceparent";
inline constexpr char kTracestateHeader[] = "tracestate";

// A place in a trace: the span that is the parent of what follows.
struct TraceContext {
  TraceId trace_id{};    // all zero: no trace
  SpanId span_id{};      // all zero: no parent
  bool sampled = false;  // spans of this trace are kept
  bool remote = false;   // it came from another process
  std::string state;     // other vendors' values, passed on as they came

  bool valid() const { return trace_id != TraceId{} && span_id != SpanId{}; }
};

// The value of a traceparent header; nothing where it is malformed. Versions after 00 are read as far as 00 goes.
std::optional<TraceContext> ParseTraceparent(absl::string_view value);
// "00-TRACE-SPAN-FLAGS". REQUIRES: context.valid()
std::string FormatTraceparent(const TraceContext& context);
// The value of a tracestate header where it can be passed on, else empty: at most 512 printable characters and 32
// members.
std::string CheckedTracestate(absl::string_view value);

// 32 and 16 digits.
std::string Hex(const TraceId& id);
std::string Hex(const SpanId& id);

}  // namespace conclave

#endif  // CONCLAVE_MOE_TRACING_TRACE_CONTEXT_H_
