// The spans of one request at the dispatcher: the request itself, by OpenTelemetry's semantic conventions for
// generative AI, and its tokenising. No text of prompts or answers. Internal to the dispatcher.
#ifndef CONCLAVE_GATEWAY_REQUEST_TRACE_H_
#define CONCLAVE_GATEWAY_REQUEST_TRACE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "conclave/v1/inference.pb.h"
#include "gateway/caller.h"
#include "moe/tracing/tracer.h"

namespace conclave {

// Used by one thread at a time.
class RequestTrace {
 public:
  // The span begins at `arrival`, under what the front says. Null where `tracer` is null or off.
  static std::shared_ptr<RequestTrace> Begin(Tracer* tracer, const Caller& caller, const v1::GenerateRequest& request,
                                             const std::string& request_id, const std::string& model,
                                             absl::Time arrival);

  // The parent of whatever is done for the request.
  const TraceContext& context() const { return span_.context; }
  // The trace, as logs show it.
  std::string id() const { return Hex(span_.context.trace_id); }

  // The prompt has become ids, between `begin` and now.
  void Tokenised(absl::Time begin, int64_t tokens);
  // A token has come, the first of all answers.
  void FirstToken(absl::Time when) { first_token_ = when; }
  // The last call. finish_reasons: [answers], empty where an answer did not get so far.
  void End(const absl::Status& status, const v1::Usage& usage, std::vector<std::string> finish_reasons);

 private:
  RequestTrace(Tracer& tracer, Span span) : tracer_(tracer), span_(std::move(span)) {}

  Tracer& tracer_;
  Span span_;
  absl::Time first_token_ = absl::InfinitePast();
};

}  // namespace conclave

#endif  // CONCLAVE_GATEWAY_REQUEST_TRACE_H_
