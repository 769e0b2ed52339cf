#include "router_service/decode_trace.h"

#include <algorithm>
#include <utility>

#include "moe/daemon/grpc_trace.h"

namespace conclave {
namespace {

Span Phase(const Tracer& tracer, const Span& call, const char* name, absl::Time begin) {
  return tracer.Start(name, SpanKind::kInternal, call.context, begin);
}

}  // namespace

void EndDecodeTrace(Tracer& tracer, Span call, const DecodeProgress& progress, const absl::Status& status,
                    absl::Time end) {
  if (!call.sampled()) return;
  const bool admitted = progress.admission != absl::InfinitePast();
  const bool answered = progress.first_token != absl::InfinitePast();
  // Two clocks' readings of one moment must not make a phase end before it begins, or outside of its call.
  const absl::Time admission = admitted ? std::clamp(progress.admission, call.start, end) : end;
  const absl::Time first_token = answered ? std::clamp(progress.first_token, admission, end) : end;

  tracer.End(Phase(tracer, call, "queue", call.start), admission);
  if (admitted) {
    Span prefill = Phase(tracer, call, "prefill", admission);
    prefill.Set("gen_ai.usage.input_tokens", progress.prompt_tokens);
    prefill.Set("conclave.cached_tokens", progress.cached_tokens);
    prefill.Set("conclave.resumed_tokens", progress.resumed_tokens);
    tracer.End(std::move(prefill), first_token);
  }
  if (answered) {
    Span decode = Phase(tracer, call, "decode", first_token);
    decode.Set("gen_ai.usage.output_tokens", progress.generated_tokens);
    tracer.End(std::move(decode), end);
  }
  EndCallSpan(tracer, std::move(call), status, end);
}

}  // namespace conclave
