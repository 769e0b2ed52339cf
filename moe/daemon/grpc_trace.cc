#include "moe/daemon/grpc_trace.h"

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"

namespace conclave {

Span StartCallSpan(Tracer& tracer, const grpc::ServerContextBase& context, absl::string_view service,
                   absl::string_view method, absl::Time start) {
  std::vector<absl::string_view> parents;
  const auto [begin, end] = context.client_metadata().equal_range(kTraceparentHeader);
  for (auto found = begin; found != end; ++found) parents.emplace_back(found->second.data(), found->second.size());
  const auto state = context.client_metadata().find(kTracestateHeader);
  const bool has_state = state != context.client_metadata().end();
  const TraceContext parent = tracer.Accept(
      parents, has_state ? absl::string_view(state->second.data(), state->second.size()) : absl::string_view());
  Span span = tracer.Start(absl::StrCat(service, "/", method), SpanKind::kServer, parent, start);
  span.Set("rpc.system", "grpc");
  span.Set("rpc.service", std::string(service));
  span.Set("rpc.method", std::string(method));
  return span;
}

void EndCallSpan(Tracer& tracer, Span span, const absl::Status& status, absl::Time end) {
  span.Set("rpc.grpc.status_code", static_cast<int>(status.code()));
  span.SetStatus(status);
  tracer.End(std::move(span), end);
}

void AddTraceMetadata(const TraceContext& trace, grpc::ClientContext& context) {
  if (!trace.valid()) return;
  context.AddMetadata(kTraceparentHeader, FormatTraceparent(trace));
  if (!trace.state.empty()) context.AddMetadata(kTracestateHeader, trace.state);
}

}  // namespace conclave
