#include "gateway/http/access_log.h"

#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "moe/base/log.h"
#include "moe/tracing/trace_context.h"

namespace conclave {
namespace {

constexpr int kStatuses[] = {200, 204, 400, 401, 403, 404, 405, 408, 413, 415, 429, 431, 499, 500, 501, 503, 504, 505};

// Methods are the client's text; only those that HTTP knows are written down.
std::string MethodOf(const ExchangeSummary& summary) {
  if (summary.head == nullptr) return "none";
  for (const char* method : {"GET", "HEAD", "POST", "OPTIONS", "PUT", "DELETE", "PATCH"}) {
    if (summary.head->method == method) return method;
  }
  return "other";
}

}  // namespace

AccessLog::AccessLog(Metrics& metrics)
    : duration_(metrics.AddHistogram("conclave_gateway_http_duration_seconds",
                                     "Time from the first byte of an HTTP request to the last of its response.", {},
                                     LatencyBuckets())) {
  const auto counter = [&metrics](const std::string& code) {
    return metrics.AddCounter("conclave_gateway_http_responses_total", "HTTP responses by status.", {{"code", code}});
  };
  for (const int status : kStatuses) responses_[status] = counter(absl::StrCat(status));
  others_ = counter("other");
}

void AccessLog::Add(const ExchangeSummary& summary) {
  const auto found = responses_.find(summary.status);
  (found == responses_.end() ? others_ : found->second)->Add(1);
  duration_->Observe(absl::ToDoubleSeconds(summary.duration));
  const RequestContext& context = summary.context;
  // Probes come every few seconds and say nothing while they succeed.
  const bool probe = context.route == "/health" || context.route == "/ready" || context.route == "/ping";
  LogFields(probe && summary.status == 200 ? LogLevel::kDebug : LogLevel::kInfo, "http",
            {{"request_id", context.request_id.empty() ? "none" : context.request_id},
             {"tenant", context.tenant == nullptr ? "none" : context.tenant->name},
             {"trace_id", context.span == nullptr ? "none" : Hex(context.span->context.trace_id)},
             {"peer", context.peer},
             {"method", MethodOf(summary)},
             {"route", context.route.empty() ? "none" : context.route},
             {"status", summary.status},
             {"streamed", summary.streamed},
             {"completed", summary.completed},
             {"body_bytes", summary.body_bytes},
             {"sent_bytes", summary.sent_bytes},
             {"duration_ms", absl::ToInt64Milliseconds(summary.duration)}});
}

}  // namespace conclave
