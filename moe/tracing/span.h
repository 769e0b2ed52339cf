// One span of a trace: something that took time, as OpenTelemetry describes it.
#ifndef CONCLAVE_MOE_TRACING_SPAN_H_
#define CONCLAVE_MOE_TRACING_SPAN_H_

#include <cstdint>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "moe/tracing/trace_context.h"

namespace conclave {

// As OTLP numbers them.
enum class SpanKind { kInternal = 1, kServer = 2, kClient = 3 };

// Keys are those of OpenTelemetry's semantic conventions, or begin with "conclave.".
struct SpanAttribute {
  std::string key;
  std::variant<std::string, int64_t, double, bool, std::vector<std::string>> value;
};

// Begun by Tracer::Start, ended by Tracer::End. Values that an unsampled span gets are kept nowhere.
struct Span {
  TraceContext context;  // its own
  SpanId parent{};       // all zero: it is the root of its trace
  bool remote_parent = false;
  std::string name;
  SpanKind kind = SpanKind::kInternal;
  absl::Time start, end;
  std::vector<SpanAttribute> attributes;
  std::string error;  // what went wrong; empty: nothing

  bool sampled() const { return context.sampled; }

  // How it ended, as "error.type". A client's span fails with anything but OK, any other with what is a server's fault
  // alone (semantic conventions for gRPC): its message is ours, and never quotes a request.
  void SetStatus(const absl::Status& status);

  void Set(std::string key, std::string value) { Add(std::move(key), std::move(value)); }
  void Set(std::string key, const char* value) { Add(std::move(key), std::string(value)); }
  void Set(std::string key, std::vector<std::string> value) { Add(std::move(key), std::move(value)); }
  // Templates, so that a pointer is no truth and a float no integer.
  template <typename T, typename = std::enable_if_t<std::is_arithmetic_v<T>>>
  void Set(std::string key, T value) {
    if constexpr (std::is_same_v<T, bool>) {
      Add(std::move(key), value);
    } else if constexpr (std::is_floating_point_v<T>) {
      Add(std::move(key), static_cast<double>(value));
    } else {
      Add(std::move(key), static_cast<int64_t>(value));
    }
  }

 private:
  template <typename T>
  void Add(std::string key, T value) {
    if (sampled()) attributes.push_back({std::move(key), std::move(value)});
  }
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_TRACING_SPAN_H_
